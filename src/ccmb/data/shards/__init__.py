"""WebDataset shards: written, read, streamed in a known order."""
