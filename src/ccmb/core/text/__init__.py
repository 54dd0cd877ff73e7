"""Text files in whatever encoding and form they have, and cleaning of texts."""
