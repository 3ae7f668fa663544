"""A pass with a cache, in parts."""

import numpy as np


def read_in_parts(step, tokens, sizes, cache, source):
    """The logits of tokens (B, T) that are read in parts of these sizes.

    `step(tokens, positions, cache, source)` returns logits and the cache. The first part reads the source, by keyword,
    {} for none: then its keys and values are in the cache.
    """
    parts, begin = [], 0
    for size in sizes:
        end = begin + size
        positions = np.broadcast_to(np.arange(begin, end, dtype=np.int32), (len(tokens), size))
        logits, cache = step(tokens[:, begin:end], positions, cache, {} if begin else source)
        parts.append(logits)
        begin = end
    return np.concatenate(parts, axis=1)
