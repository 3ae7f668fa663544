"""Text on disk: finds files, recognises formats, decompresses, reads rows."""
