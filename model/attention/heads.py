"""Numbers of heads that others may share."""

import math


def divisors(number: int) -> list[int]:
    """The whole numbers from 1 that divide a positive one, in order: numbers of heads that it can be shared among."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
