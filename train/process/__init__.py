"""The process: signals, freed memory, compiled programs, and the other processes of a run."""
