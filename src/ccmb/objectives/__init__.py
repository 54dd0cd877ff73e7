"""The paper's objectives, one file for each, and their sum."""
