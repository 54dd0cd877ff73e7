"""The page of the quickstart."""
