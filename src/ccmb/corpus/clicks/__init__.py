"""Click logs to click-through rates."""
