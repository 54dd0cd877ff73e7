"""What lies in a model folder or a checkpoint, and whether it belongs together."""
