"""Logs, pages and links as tables."""
