"""Published families, one in each file."""
