"""Images: read, decoded, transformed, compared."""
