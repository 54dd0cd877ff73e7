"""R2D2 from other people's towers."""
