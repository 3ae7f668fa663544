"""Text in pieces that belong to tokens: a piece has the fewest tokens that begin and end between characters.

Most pieces are one token. A token that holds only a part of a character (a byte of "é") is in one piece with the tokens
of the character's other bytes. For two tokenizers a piece ends where both have the end of a token, so that it holds the
same characters for both, and the sums of their losses can be compared.
"""

from collections.abc import Sequence
from typing import NamedTuple

from train.data.tokenizers.interface import Tokenizer
from train.data.tokenizers.prefixes import LOOKAHEAD_TOKENS
from train.data.tokenizers.streaming import common_prefix

BLOCK = 64  # tokens that are decoded together
UNFINISHED = "\ufffd"


class TokenOnPage(NamedTuple):
    """A token: its own text, with U+FFFD for parts of characters, and its loss in nats; None if it was not scored."""

    text: str
    loss: float | None


class Piece(NamedTuple):
    """Some characters of a text, and their tokens for each model."""

    text: str
    tokens: tuple[tuple[TokenOnPage, ...], ...]


def ends_of_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, list[int | None]]:
    """The text of ids, and for each id the number of characters up to its end; None where it ends inside a character.

    Decoding a prefix of the ids gives a prefix of the text, except where a character is unfinished. Only the ids since
    the last known end are decoded again, with a few before them, which change how some decoders begin.
    """
    text = tokenizer.decode(ids)
    ends = _ends_by_blocks(tokenizer, ids)
    if ends[-1:] != [len(text)]:
        ends = [_whole_prefix(tokenizer.decode(ids[:count]), text) for count in range(1, len(ids) + 1)]
    text = text.rstrip(UNFINISHED)  # the ids may be the first of more
    return text, [None if end is None or end > len(text) else end for end in ends]


def _ends_by_blocks(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int | None]:
    ends: list[int | None] = []
    start, before = 0, 0  # the block's first id, and the characters before it
    while start < len(ids):
        low = max(0, start - LOOKAHEAD_TOKENS)
        while low and ends[low - 1] is None:
            low -= 1
        stop = min(start + BLOCK, len(ids))
        block = tokenizer.decode(ids[low : stop + LOOKAHEAD_TOKENS])
        offset = before - len(common_prefix(tokenizer.decode(ids[low:start]), block))
        for count in range(start + 1, stop + 1):
            end = _whole_prefix(tokenizer.decode(ids[low:count]), block)
            ends.append(None if end is None else end + offset)
        # The next block begins after a whole character.
        known = next((at for at in range(stop, start, -1) if ends[at - 1] is not None), None)
        if known is None or stop == len(ids):
            return [*ends, *[None] * (len(ids) - len(ends))]
        del ends[known:]
        start, before = known, ends[known - 1] or 0
    return ends


def _whole_prefix(decoded: str, text: str) -> int | None:
    """The number of characters that a decoded prefix shares with the text; None if it ends inside a character."""
    shared = len(common_prefix(decoded, text))
    return shared if shared == len(decoded) else None


def split_into_pieces(
    readings: Sequence[tuple[Tokenizer, Sequence[int], Sequence[float]]],
) -> tuple[list[Piece], bool]:
    """The pieces of one text as one or two models read it.

    Args:
      readings: for each model its tokenizer, ids, and the losses of the last of these ids.

    Returns:
      The pieces up to the end of the shorter reading; and whether the readings agree, if there are two. If their texts
      differ, as where a tokenizer loses characters, only the first reading is in the pieces.
    """
    found = [(*ends_of_tokens(tokenizer, ids), ids, losses) for tokenizer, ids, losses in readings]
    length = min((len(one[0]) for one in found), default=0)
    agree = len({one[0][:length] for one in found}) <= 1
    found = found if agree else found[:1]
    text = found[0][0] if not agree else found[0][0][:length]
    shared = set.intersection(*({end for end in ends if end is not None} for _, ends, _, _ in found))
    pieces, begin, places = [], 0, [0] * len(found)
    for end in sorted(place for place in shared if 0 < place <= len(text)):
        tokens = []
        for k, ((_, ends, ids, losses), (tokenizer, _, _)) in enumerate(zip(found, readings, strict=False)):
            first, places[k] = places[k], _after_last(ends, places[k], end)
            unscored = len(ids) - len(losses)
            tokens.append(
                tuple(
                    TokenOnPage(tokenizer.decode([ids[at]]), None if at < unscored else losses[at - unscored])
                    for at in range(first, places[k])
                )
            )
        pieces.append(Piece(text[begin:end], tuple(tokens)))
        begin = end
    return pieces, agree


def _after_last(ends: Sequence[int | None], first: int, end: int) -> int:
    """The number after the last token, from `first` on, that ends at `end`."""
    found = first
    for at in range(first, len(ends)):
        known = ends[at]
        if known is not None and known > end:
            break
        if known == end:
            found = at + 1
    return found
