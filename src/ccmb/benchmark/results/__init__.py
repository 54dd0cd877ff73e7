"""The result file, and the provenance of a result."""
