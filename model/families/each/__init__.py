"""Published families, one a file."""
