"""Everything once, offline."""
