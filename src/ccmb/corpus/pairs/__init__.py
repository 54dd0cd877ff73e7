"""Pairs of images and texts, and which of them stay."""
