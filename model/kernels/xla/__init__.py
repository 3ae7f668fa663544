"""Attention in operations of XLA, for every platform: whole arrays, blocks of queries, tiles of queries and keys."""
