"""A small web with logs, whose truth is known."""
