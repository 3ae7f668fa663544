"""Ids written as numbers, for models whose tokens stand for no text: "0 2 1" has the ids 0, 2 and 1."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from model.errors import UserError
from train.data import config
from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.streaming import IncrementalDecoder, PerTokenDecoder


class NumbersTokenizer(Tokenizer):
    """Id i is the word i. No id begins or ends a document."""

    end_of_document = None

    def __init__(self, option: config.Numbers) -> None:
        self.option = option
        self.vocab_size = option.vocab_size

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens]. Raises UserError for a word that is no id."""
        words = text.split()
        known = {str(i): i for i in range(self.vocab_size)} if words else {}
        for word in words:
            if word not in known:
                raise UserError(
                    f"{word[:40]!r} is no token of this model: its tokens are the numbers 0 to {self.vocab_size - 1}, "
                    'written with spaces between them, such as "0 1 0"'
                )
        return np.array([known[word] for word in words], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids, with a space after each."""
        return "".join(f"{i} " for i in self.checked_ids(ids))

    def incremental_decoder(self) -> IncrementalDecoder:
        """A decoder of ids that arrive one by one; a space follows each."""
        return PerTokenDecoder(lambda token: f"{token} ")

    def save(self, folder: pathlib.Path) -> None:
        """Writes nothing: the option is enough."""
        return None

    @classmethod
    def load(cls, option: config.Tokenizer, path: pathlib.Path | None) -> NumbersTokenizer:
        """The tokenizer of an option."""
        assert isinstance(option, config.Numbers)
        return cls(option)
