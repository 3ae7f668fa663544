"""Cuts a long text into parts whose ids, joined, are the ids of the whole text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

# Given the characters before and after a position: whether a text may be cut there.
IsSafe = Callable[[str, str], bool]


def cut(text: str, size: int, is_safe: IsSafe) -> Iterator[str]:
    """Yields parts that join to the text, cut only at safe positions, of at most `size` characters each where possible.

    Text without a safe position is one part, however long.
    """
    start = 0
    while len(text) - start > size:
        backward, forward = range(start + size, start, -1), range(start + size + 1, len(text))
        candidates = (at for side in (backward, forward) for at in side if is_safe(text[at - 1], text[at]))
        stop = next(candidates, len(text))
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]
