"""The bytes of tokens join to the text that the tokenizer decodes."""

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders

from tests.train.data.tokenizers.test_decoders import FALLBACK, SEQUENCE, TOKENS
from tests.train.data.tokenizers.test_sentencepieces import train_sentencepiece
from train.data import HuggingFace, SentencePieceFile, make_tokenizer
from train.data.config import Bytes, Characters, Numbers
from train.data.tokenizers.token_bytes import anchor_of, bytes_of_tokens, encode_inside, text_inside

LLAMA = SEQUENCE([*FALLBACK, decoders.Strip(" ", 1, 0)])


def hugging_face(folder, decoder):
    library = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(TOKENS)}, [], unk_token="<unk>"))
    library.add_special_tokens(["<s>"])
    library.decoder = decoder
    library.save(str(folder / "tokenizer.json"))
    return make_tokenizer(HuggingFace(path=str(folder / "tokenizer.json"), vocab_size=len(TOKENS) + 3), [])


def sentencepiece(folder, **options):
    made, _ = train_sentencepiece(folder / "a.model", **options)
    option = SentencePieceFile(path=str(folder / "a.model"), vocab_size=made.vocab_size + 5)
    return make_tokenizer(option, [])


MAKERS = {
    "bytes": lambda folder: make_tokenizer(Bytes(), []),
    "characters": lambda folder: make_tokenizer(Characters(), ["a bä河"]),
    "GPT-2": lambda folder: hugging_face(folder, decoders.ByteLevel()),
    "LLaMA 2": lambda folder: hugging_face(folder, LLAMA),
    "T5": lambda folder: hugging_face(folder, decoders.Metaspace()),
    "SentencePiece": lambda folder: sentencepiece(folder),
    "SentencePiece with bytes": lambda folder: sentencepiece(folder, byte_fallback=True, control_symbols=["<t>"]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_bytes_join_to_the_decoded_text(name, tmp_path):
    tokenizer = MAKERS[name](tmp_path)
    found, anchor = bytes_of_tokens(tokenizer), anchor_of(tokenizer)
    assert len(found) == tokenizer.vocab_size
    rng = np.random.default_rng(0)
    for _ in range(60):
        ids = anchor + rng.integers(0, tokenizer.vocab_size, rng.integers(1, 7)).tolist()
        ids = [i for i in ids if found[i]] + anchor
        joined = b"".join(found[i] for i in ids)
        try:
            text = joined.decode("utf-8")
        except UnicodeDecodeError:  # other programs differ in how they write such bytes
            continue
        assert tokenizer.decode(ids) == (text if name in ("GPT-2", "bytes", "characters") else text.removeprefix(" "))


def test_marks_and_ids_past_the_vocabulary_write_nothing(tmp_path):
    tokenizer = hugging_face(tmp_path, LLAMA)
    found = bytes_of_tokens(tokenizer)
    assert found[TOKENS.index("<s>")] == b""
    assert found[-3:] == [b""] * 3
    assert found[TOKENS.index("<0xE6>")] == b"\xe6"
    assert found[TOKENS.index("\u2581a")] == b" a"
    assert bytes_of_tokens(make_tokenizer(Bytes(end_of_document=True), []))[256] == b""
    pieces = sentencepiece(tmp_path, control_symbols=["<t>"])
    written = bytes_of_tokens(pieces)
    assert written[-5:] == [b""] * 5
    assert [written[i] for i in (pieces.marks()["<t>"], pieces.end_of_document)] == [b"", b""]
    assert text_inside(pieces, anchor_of(pieces), pieces.encode("the").tolist()[-1]) != ""


def test_a_text_inside_a_text_has_no_space_before_it(tmp_path):
    tokenizer = sentencepiece(tmp_path)
    table = bytes_of_tokens(tokenizer)
    outside = tokenizer.encode("the").tolist()
    inside = encode_inside(tokenizer, table, "the")
    assert inside is None or b"".join(table[i] for i in inside) == b"the" != b"".join(table[i] for i in outside)
    assert encode_inside(make_tokenizer(Bytes(), []), bytes_of_tokens(make_tokenizer(Bytes(), [])), "aä") == [
        97,
        195,
        164,
    ]
    numbers = make_tokenizer(Numbers(vocab_size=9), [])
    assert encode_inside(numbers, bytes_of_tokens(numbers), "the") is None
