"""What a run's folder says of it."""
