"""lm_eval, EleutherAI's evaluation harness, on runs: the numbers that its Hugging Face backend gives for weights."""
