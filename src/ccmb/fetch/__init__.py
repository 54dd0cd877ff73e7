"""One URL, politely and safely."""
