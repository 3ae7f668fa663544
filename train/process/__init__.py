"""The process: signals, freed memory, compiled programs."""
