"""From token ids to vectors, from vectors to logits and losses."""
