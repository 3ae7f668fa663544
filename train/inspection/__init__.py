"""Looking inside a model: pure functions of its options, parameters and tokens, through taps (model/README.md)."""
