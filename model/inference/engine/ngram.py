"""Guesses from the text itself: it goes on as it did after the same tokens before.

Saxena 2023, "Prompt Lookup Decoding". The latest earlier place counts, and of several lengths the longest that has one.
A text that ends in a period is continued by it: guesses may be copied from guesses.
"""

from collections.abc import Callable, Sequence

from model.inference.engine.sequence import Sequence as Text
from model.inference.engine.speculation import NGram


class NGramProposer:
    """Guesses by n-grams; keeps an index of every running text."""

    num_programs = 0

    def __init__(self, option: NGram) -> None:
        """Args: the lengths."""
        self._option = option
        self._indices: dict[int, _Index] = {}

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Has nothing to compile."""

    def propose(self, texts: Sequence[Text], counts: Sequence[int]) -> list[list[int]]:
        """See `Proposer`."""
        return [
            self._indices.setdefault(text.request_id, _Index(self._option)).guess(text.tokens, count)
            for text, count in zip(texts, counts, strict=True)
        ]

    def forget(self, text: Text) -> None:
        """See `Proposer`."""
        self._indices.pop(text.request_id, None)


class _Index:
    """The latest place after each n-gram of a text that grows."""

    def __init__(self, option: NGram) -> None:
        self._lengths = range(option.longest, option.shortest - 1, -1)
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0  # n-grams that end before this place are known

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """Returns `count` tokens, or none."""
        for end in range(self._known + 1, len(tokens)):  # that at the end of the text is no earlier place
            for length in self._lengths:
                if length <= end:
                    self._after[tuple(tokens[end - length : end])] = end
        self._known = max(self._known, len(tokens) - 1)
        for length in self._lengths:
            place = self._after.get(tuple(tokens[-length:])) if length <= len(tokens) else None
            if place is not None:
                period = len(tokens) - place
                return [tokens[place + i % period] for i in range(count)]
        return []
