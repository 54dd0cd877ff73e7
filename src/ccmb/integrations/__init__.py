"""Our models and sets in other people's tools, and our results in their files."""
