"""The report page of a quickstart: what was measured, in words, figures, curves and pictures."""
