"""R2D2 from published towers."""
