"""What a client may ask, and how often."""
