"""Any model on a set of each family, and what is kept of its features."""
