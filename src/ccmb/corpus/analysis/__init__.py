"""What a finished corpus holds."""
