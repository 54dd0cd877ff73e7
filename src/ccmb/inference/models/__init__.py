"""Models under comparison: R2D2, two-tower models of transformers and open_clip, stored features."""
