"""What the processor takes."""
