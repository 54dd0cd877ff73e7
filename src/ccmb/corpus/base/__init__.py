"""What all steps of a corpus share."""
