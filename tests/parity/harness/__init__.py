"""The lm_eval adapter against the Hugging Face backend of lm_eval."""
