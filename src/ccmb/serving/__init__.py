"""Search, matching and embeddings over HTTP, with a web page."""
