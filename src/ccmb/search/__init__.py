"""The index of images, and two-stage search in it."""
