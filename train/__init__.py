"""Data, tokenizers, optimizers, sharding, the step, the loop, checkpoints, evaluation. Imports model/."""
