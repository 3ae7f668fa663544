"""Valid numbers of key/value heads."""

import math
from collections.abc import Iterator


def divisors(number: int) -> list[int]:
    """Returns the divisors of a positive number, in increasing order: the numbers of heads that can share it."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def problems_of_heads(num_heads: int, num_kv_heads: int | None, head_dim: int | None) -> Iterator[tuple[str, str]]:
    """Yields each invalid one of these fields of an option with its problem."""
    if num_heads < 1:
        yield "num_heads", f"must be at least 1, got {num_heads}"
    elif num_kv_heads is not None and (num_kv_heads < 1 or num_heads % num_kv_heads):
        message = f"{num_kv_heads} does not divide num_heads={num_heads}"
        yield "num_kv_heads", f"{message}; use one of {divisors(num_heads)}"
    if head_dim is not None and head_dim < 1:
        yield "head_dim", f"must be at least 1, got {head_dim}"
