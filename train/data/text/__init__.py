"""Text as it lies on a disk: files found, formats told apart, compression undone, rows read."""
