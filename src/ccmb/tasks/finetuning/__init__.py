"""Fine-tuning of any family: the run, the comparison, the page."""
