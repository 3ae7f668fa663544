"""Embeddings of token ids, logits, and losses."""
