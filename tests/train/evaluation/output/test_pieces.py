"""Pieces of text of tokens: whole characters, for one tokenizer and for two over the same text."""

import json

import numpy as np
import pytest
import tokenizers

from train.data.config import Bytes, Characters, HuggingFace, SentencePiece
from train.data.tokenizers.huggingface import HuggingFaceTokenizer
from train.data.tokenizers.interface import BytesTokenizer, CharactersTokenizer
from train.data.tokenizers.sentencepieces import train_sentencepiece
from train.evaluation.output.pieces import ends_of_tokens, split_into_pieces

TEXT = "Größe: naïve café — 東京 😀😀 end.\n\n  Two  words é\n" * 8
BYTES = BytesTokenizer(Bytes())


def byte_level(text):
    """A byte-level BPE, as that of GPT-2, in which a token may hold a part of a character and the next letter."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([text], tokenizers.trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet))
    return HuggingFaceTokenizer(HuggingFace(path="t.json"), tokenizer.to_str().encode(), "t.json")


@pytest.fixture(scope="module")
def known():
    return {
        "bytes": BYTES,
        "characters": CharactersTokenizer(Characters(), TEXT),
        "byte level": byte_level(TEXT),
        "sentencepiece": train_sentencepiece(SentencePiece(vocab_size=300), [TEXT, "words of another text " * 9]),
        "strange": Strange(Bytes()),
    }


class Strange(BytesTokenizer):
    """Writes another letter where there are more than 70 tokens, so that parts do not decode as they do in the whole."""

    def decode(self, ids):
        text = super().decode(ids)
        return text if len(ids) <= 70 else text.replace("é", "e")


def reading(tokenizer, text, unscored=0):
    ids = tokenizer.encode(text)
    return tokenizer, ids.tolist(), (np.arange(len(ids) - unscored) + 0.5).tolist()


@pytest.mark.parametrize("name", ["bytes", "characters", "byte level", "sentencepiece", "strange"])
def test_pieces_are_the_text_and_hold_every_token_once(known, name):
    tokenizer = known[name]
    _, ids, losses = reading(tokenizer, TEXT)
    pieces, agree = split_into_pieces([(tokenizer, ids, losses)])
    assert agree
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids)
    assert [token.loss for piece in pieces for (tokens,) in [piece.tokens] for token in tokens] == losses
    text, ends = ends_of_tokens(tokenizer, ids)
    # By the definition, without blocks.
    for count in range(0, len(ids), 7):
        decoded = tokenizer.decode(ids[:count])
        if name != "strange" and text.startswith(decoded) and count:
            assert ends[count - 1] == len(decoded)


def test_bytes_of_a_character_are_one_piece_with_both_losses():
    pieces, _ = split_into_pieces([(BYTES, BYTES.encode("aéb").tolist(), [1.0, 2.0, 3.0, 4.0])])
    assert [(piece.text, [token.loss for token in piece.tokens[0]]) for piece in pieces] == [
        ("a", [1.0]),
        ("é", [2.0, 3.0]),
        ("b", [4.0]),
    ]
    assert [token.text for token in pieces[1].tokens[0]] == ["\ufffd", "\ufffd"]


def test_first_tokens_of_more_end_before_an_unfinished_character():
    ids = BYTES.encode("ab東").tolist()[:4]
    pieces, _ = split_into_pieces([(BYTES, ids, [1.0, 2.0, 3.0, 4.0])])
    assert [piece.text for piece in pieces] == ["a", "b"]


def test_a_token_that_was_not_scored_has_no_loss():
    pieces, _ = split_into_pieces([reading(BYTES, "abc", unscored=1)])
    assert [token.loss for piece in pieces for token in piece.tokens[0]] == [None, 0.5, 1.5]


@pytest.mark.parametrize("other", ["characters", "byte level", "sentencepiece"])
def test_two_models_share_pieces_of_the_same_characters(known, other):
    one, two = reading(BYTES, TEXT), reading(known[other], TEXT)
    pieces, agree = split_into_pieces([one, two])
    assert agree
    assert "".join(piece.text for piece in pieces) == TEXT
    for model, (tokenizer, ids, losses) in enumerate((one, two)):
        tokens = [token for piece in pieces for token in piece.tokens[model]]
        assert [token.loss for token in tokens] == losses
        starts = np.cumsum([0, *(len(piece.tokens[model]) for piece in pieces)])
        for number, piece in enumerate(pieces[:40]):
            some = ids[starts[number] : starts[number + 1]]
            assert tokenizer.decode(some).strip() == piece.text.strip()
    # No piece could be cut further: within it the two have no common end.
    assert len(pieces) == len(set(ends_of_tokens(*one[:2])[1]) & set(ends_of_tokens(*two[:2])[1]) - {None})


def test_the_shorter_reading_ends_the_pieces():
    tokenizer, ids, losses = reading(BYTES, "abcdef")
    pieces, agree = split_into_pieces([(tokenizer, ids, losses), (tokenizer, ids[:3], losses[:3])])
    assert (agree, "".join(piece.text for piece in pieces)) == (True, "abc")


def test_models_that_read_other_characters_are_not_laid_over_one_another():
    pieces, agree = split_into_pieces([reading(BYTES, "Abc"), reading(BYTES, "abc")])
    assert not agree
    assert [len(piece.tokens) for piece in pieces] == [1, 1, 1]
    assert json.dumps([piece.text for piece in pieces]) == '["A", "b", "c"]'
