"""Which key each query may see, as boolean arrays; True means visible.

An index is a token's place in the sequence (or its slot in the cache). A segment id numbers the documents packed into a
sequence from 1; 0 is padding.
"""

import jax


def causal(query_BT: jax.Array, key_BS: jax.Array) -> jax.Array:
    """A query sees keys at its own index and before, (B, T, S); a batch of 1 broadcasts."""
    return query_BT[:, :, None] >= key_BS[:, None, :]


def same_segment(query_BT: jax.Array, key_BS: jax.Array) -> jax.Array:
    """A query sees keys of its own document only, (B, T, S)."""
    return query_BT[:, :, None] == key_BS[:, None, :]
