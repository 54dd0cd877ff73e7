"""The report page of a quickstart: what was measured, in words, metrics, curves and images."""
