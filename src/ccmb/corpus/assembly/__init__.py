"""From pairs and downloaded images to shards with their cards."""
