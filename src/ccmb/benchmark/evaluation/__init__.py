"""Measuring a model on a set, a file for each family, and the cache of encoded galleries."""
