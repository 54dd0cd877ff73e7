"""The result file, and where a result comes from."""
