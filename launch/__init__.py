"""The commands: python -m launch.train, .evaluate, .generate, .tokenize, .data, .report. Imports everything else."""
