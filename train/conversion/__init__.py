"""Published weights in and out: a Hugging Face folder as a run folder, and a run folder as a Hugging Face folder."""
