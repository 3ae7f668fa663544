"""Valid numbers of key/value heads."""

import math


def divisors(number: int) -> list[int]:
    """Returns the divisors of a positive number, in increasing order: the numbers of heads that can share it."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
