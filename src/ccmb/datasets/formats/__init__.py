"""The published file formats, one file for each."""
