"""Demonstrations: the whole pipeline once, offline."""
