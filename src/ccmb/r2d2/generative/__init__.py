"""Heads that write captions and paint images."""
