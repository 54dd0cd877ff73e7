"""`ccmb corpus`."""
