"""Typed recipes: reading, overriding, and which keys were given."""
