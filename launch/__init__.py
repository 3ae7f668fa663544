"""The commands: python -m launch.train, .quickstart, .evaluate, .generate, .tokenize, .data, .report."""
