"""The bytes of first tokens: exact, and with parts that add up, for several kinds of tokenizers."""

import itertools

import pytest

from train.data.config import Bytes, Characters, SentencePiece
from train.data.tokenizers.interface import BytesTokenizer, CharactersTokenizer, make_tokenizer
from train.data.tokenizers.prefixes import PrefixSize, prefix_size

TEXT = " a é世界 😀b\n  世 x"


@pytest.fixture(scope="module")
def fallback():
    """Pieces of a few letters; every other character is spelled by its bytes."""
    return make_tokenizer(SentencePiece(vocab_size=270), ["abc abd bcd " * 40])


def test_bytes_are_themselves():
    """Also inside a character, where the decoder only shows that something is missing."""
    tokenizer = BytesTokenizer(Bytes(end_of_document=False))
    ids = tokenizer.encode(TEXT)
    assert [prefix_size(tokenizer, ids, n).bytes for n in range(len(ids) + 1)] == list(range(len(ids) + 1))


def test_byte_fallback_counts_every_byte(fallback):
    ids = fallback.encode(TEXT)
    held = [piece_bytes(fallback, i) for i in ids.tolist()]
    assert 1 in held
    assert sum(held) == len(TEXT.encode())
    expected = [0, *itertools.accumulate(held)]
    assert [prefix_size(fallback, ids, n).bytes for n in range(len(ids) + 1)] == expected


def piece_bytes(tokenizer, i):
    piece = tokenizer._processor.id_to_piece(i)
    return 1 if tokenizer._processor.is_byte(i) else len(piece.replace("\u2581", " ").encode())


def test_characters_have_their_own_sizes():
    tokenizer = CharactersTokenizer(Characters(), TEXT)
    ids = tokenizer.encode(TEXT)
    sizes = [len(TEXT[:n].encode()) for n in range(len(TEXT) + 1)]
    assert [prefix_size(tokenizer, ids, n).bytes for n in range(len(ids) + 1)] == sizes


def test_a_word_belongs_to_the_side_where_it_ends():
    tokenizer = BytesTokenizer(Bytes())
    ids = tokenizer.encode("ab é c")
    words = [prefix_size(tokenizer, ids, n).words for n in range(len(ids) + 1)]
    assert words == [0, 0, 1, 1, 1, 2, 2, 3]


class Merged(BytesTokenizer):
    """Ids are runs of bytes of a fixed text, as byte-level merges make them."""

    parts = (b" \xe4", b"\xb8\x96", b"\xe7\x95", b"\x8c")

    def decode(self, ids):
        return b"".join(self.parts[i] for i in ids).decode("utf-8", errors="replace")


def test_a_token_of_several_bytes_of_a_character_is_off_by_one_at_most():
    sizes = [prefix_size(Merged(Bytes()), [0, 1, 2, 3], n).bytes for n in range(5)]
    assert [sizes[n] for n in (0, 2, 4)] == [0, 4, 7]
    assert abs(sizes[1] - 2) <= 1
    assert abs(sizes[3] - 6) <= 1


def test_only_some_tokens_ahead_are_needed():
    tokenizer = BytesTokenizer(Bytes())
    ids = tokenizer.encode("é" + "x" * 100)
    assert prefix_size(tokenizer, ids, 1) == prefix_size(tokenizer, ids[:9], 1) == PrefixSize(1, 0, 0)
