"""Words from states: a head over the vocabulary, a causal decoder, and what a text is worth by its likelihood."""
