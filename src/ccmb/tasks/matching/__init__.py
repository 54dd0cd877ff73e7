"""Does a text describe an image? Scores, metrics, calibration."""
