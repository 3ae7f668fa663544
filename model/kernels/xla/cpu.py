"""Block sizes of attention on a CPU, as measured (tests/benchmarks/README.md); other platforms use none of them.

A CPU has no memory that scores must fit into, and few large matrix products run faster than many small products.
"""

# For causal queries: the maximum number of blocks, the minimum number of queries of a block, and the maximum number of
# blocks if each query sees only a few keys.
MAX_BLOCKS, MIN_BLOCK_SIZE, MAX_WINDOW_BLOCKS = 4, 64, 16

# The maximum number of scores of a block, for each row and head: 1,024 queries by 4,096 keys.
MAX_SCORES = 2**22


def block_count(queries: int, reach: int | None) -> int:
    """Returns the number of blocks for causal queries that see up to `reach` keys each; None for all earlier keys."""
    max_blocks = MAX_BLOCKS if reach is None else max(MAX_BLOCKS, min(MAX_WINDOW_BLOCKS, queries // reach))
    return max(1, min(max_blocks, queries // MIN_BLOCK_SIZE))
