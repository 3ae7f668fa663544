"""Cutting a long text into parts whose ids are those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

# Told the characters before and after a place: whether a text may be cut there.
IsSafe = Callable[[str, str], bool]


def cut(text: str, size: int, is_safe: IsSafe) -> Iterator[str]:
    """Parts that join to the text, cut at safe places only: of at most `size` characters each where there is one.

    A stretch without a safe place is one part, however long.
    """
    start = 0
    while len(text) - start > size:
        back, on = range(start + size, start, -1), range(start + size + 1, len(text))
        places = (at for places in (back, on) for at in places if is_safe(text[at - 1], text[at]))
        stop = next(places, len(text))
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]
