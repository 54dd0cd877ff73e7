"""Texts: normalised, filtered, near duplicates."""
