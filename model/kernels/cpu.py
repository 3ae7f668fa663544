"""Block sizes of attention on a CPU, as measured (tests/benchmarks/README.md); other platforms use none of them.

A CPU has no memory that scores must fit into, and few large matrix products run faster than many small products.
"""

# For causal queries: the most blocks, the fewest queries of a block, and the most blocks where each query sees only a
# few keys.
MOST_BLOCKS, SMALLEST_BLOCK, MOST_BLOCKS_OF_WINDOWS = 4, 64, 16

# The most scores of a block, for each row and head: 1,024 queries by 4,096 keys.
MOST_SCORES = 2**22


def block_count(queries: int, reach: int | None) -> int:
    """Returns the number of blocks for causal queries that see up to `reach` keys each; None for all earlier keys."""
    most = MOST_BLOCKS if reach is None else max(MOST_BLOCKS, min(MOST_BLOCKS_OF_WINDOWS, queries // reach))
    return max(1, min(most, queries // SMALLEST_BLOCK))
