"""The bytes that each id of a tokenizer writes inside a text that has begun, where a space before a word counts."""

from collections.abc import Sequence

from model.errors import UserError
from train.data.tokenizers.interface import StreamDecoder, Tokenizer


def anchor_of(tokenizer: Tokenizer) -> list[int]:
    """An id with a letter or digit, to decode others after it; empty for a tokenizer without one."""
    ids = range(min(tokenizer.vocab_size, 1000))
    return next(([i] for i in ids if tokenizer.decode([i]).strip().isalnum()), [])


def text_inside(tokenizer: Tokenizer, anchor: Sequence[int], token: int) -> str:
    """The text of an id after those of `anchor_of`; empty for a mark, with U+FFFD for bytes that are no character."""
    decoder = StreamDecoder(tokenizer)
    decoder.push(anchor)
    decoder.end_known_text()
    return decoder.push([token]) + decoder.flush()


def bytes_of_tokens(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every id, by id; none for marks, and for bytes that are no character and that nothing tells."""
    marks = {*tokenizer.marks().values(), tokenizer.begin_of_document, tokenizer.end_of_document}
    anchor = anchor_of(tokenizer)
    found: list[bytes] = []
    for token in range(tokenizer.vocab_size):
        known = b"" if token in marks else tokenizer.piece_bytes(token)
        if known is None:
            text = text_inside(tokenizer, anchor, token)
            known = b"" if "\ufffd" in text else text.encode("utf-8")
        found.append(known)
    return found


def encode_inside(tokenizer: Tokenizer, token_bytes: Sequence[bytes], text: str) -> list[int] | None:
    """The ids of a text after other text, as the tokenizer cuts it; None where that cannot be told.

    `token_bytes` are those of `bytes_of_tokens`.
    """
    for before in ("", "\n"):
        try:
            first = tokenizer.encode(before).tolist() if before else []
            ids: list[int] = tokenizer.encode(before + text).tolist()
        except UserError:  # a character that the vocabulary lacks
            continue
        rest = ids[len(first) :]
        if ids[: len(first)] == first and b"".join(token_bytes[i] for i in rest) == text.encode("utf-8"):
            return rest
    return None
