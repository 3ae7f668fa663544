"""The texts of single tokens, as log-probabilities are labelled with them."""

from collections.abc import Sequence
from typing import Any

from model.inference.request import TokenScore
from train.data.tokenizers.interface import StreamDecoder, Tokenizer
from train.data.tokenizers.token_bytes import anchor_of, text_inside

_KEPT = 1 << 17


class TokenTexts:
    """The text of each id inside a text, by which a space before a word counts.

    A token without a text of its own (a mark, some bytes of a character) is written `token_id:ID`, so that no two
    tokens have the same label for that reason.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._anchor = anchor_of(tokenizer)

    def text(self, token: int) -> str:
        """The text of an id; empty for a mark and an id of the model alone, with U+FFFD for bytes of no character."""
        if token >= self._tokenizer.vocab_size:
            return ""
        if (known := self._texts.get(token)) is not None:
            return known
        text = text_inside(self._tokenizer, self._anchor, token)
        if len(self._texts) < _KEPT:
            self._texts[token] = text
        return text

    def label(self, token: int, by_id: bool = False) -> str:
        """The text of an id, or `token_id:ID` where it has none; always the latter with `by_id`."""
        text = "" if by_id else self.text(token)
        return text if text and "\ufffd" not in text else f"token_id:{token}"

    def offsets(self, ids: Sequence[int]) -> list[int]:
        """For each id of a whole text the number of characters that the ids before it completed."""
        decoder, length, found = StreamDecoder(self._tokenizer), 0, []
        for token in ids:
            found.append(length)
            length += len(decoder.push([token]))
        return found

    def chat_entry(self, score: TokenScore, by_id: bool = False) -> dict[str, Any]:
        """A token with its log-probability as chat completions list them."""
        return {
            **self._entry(score.token, score.logprob or 0.0, by_id),
            "top_logprobs": [self._entry(token, logprob, by_id) for token, logprob in score.likeliest],
        }

    def _entry(self, token: int, logprob: float, by_id: bool) -> dict[str, Any]:
        text = self.text(token)
        raw = list(text.encode("utf-8")) if "\ufffd" not in text else None
        return {"token": self.label(token, by_id), "logprob": finite(logprob), "bytes": raw}

    def top_logprobs(self, score: TokenScore, by_id: bool = False) -> dict[str, float]:
        """The likeliest tokens and the token itself by label, as completions list them; equal labels: the likelier."""
        found: dict[str, float] = {}
        own = ((score.token, score.logprob or 0.0),)
        for token, logprob in sorted((*score.likeliest, *own), key=lambda pair: -pair[1]):
            found.setdefault(self.label(token, by_id), finite(logprob))
        return found


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold: that of a token that cannot come is -9999, as in the OpenAI interface."""
    return logprob if logprob > -9999.0 else -9999.0
