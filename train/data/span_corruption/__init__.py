"""Running text with spans taken out, as sources and targets for models with an encoder."""
