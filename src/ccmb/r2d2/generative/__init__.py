"""Heads that write captions and generate images."""
