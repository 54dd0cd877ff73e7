"""Pre-training: recipe, data, model, run."""
