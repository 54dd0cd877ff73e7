"""Samples and what they are made of: pairs, classes, images, shards."""
