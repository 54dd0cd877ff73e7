"""Links to images on disk."""
