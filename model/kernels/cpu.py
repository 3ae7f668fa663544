"""Numbers for blocks of attention on a CPU, where they were measured (tests/benchmarks/README.md); others trace none.

A CPU has no memory that scores must fit into, and few large matrix products run faster than many small ones.
"""

# Where a query sees no later keys, queries are taken in up to so many blocks, of no fewer queries than that; in more
# where they see a few keys alone.
MOST_BLOCKS, SMALLEST_BLOCK, MOST_BLOCKS_OF_WINDOWS = 4, 64, 16

# The most scores of a block, for each row and head: 1,024 queries by 4,096 keys.
MOST_SCORES = 2**22


def block_count(queries: int, reach: int | None) -> int:
    """In how many blocks causal queries are taken that see up to `reach` keys each; None for all keys before."""
    most = MOST_BLOCKS if reach is None else max(MOST_BLOCKS, min(MOST_BLOCKS_OF_WINDOWS, queries // reach))
    return max(1, min(most, queries // SMALLEST_BLOCK))
