"""Retrieval both ways."""
