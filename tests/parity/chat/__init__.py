"""Chat templates against transformers."""
