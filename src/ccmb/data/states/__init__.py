"""States of towers on disk: rows of a file, files by key, and the user's cache that holds them."""
