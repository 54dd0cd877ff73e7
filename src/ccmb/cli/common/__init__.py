"""Helpers that verbs share: options, which of them were given, tables."""
