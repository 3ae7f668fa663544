import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import UserError
from tests.train.data.conftest import prose
from train.data import (
    Bytes,
    Characters,
    HuggingFace,
    SentencePiece,
    SentencePieceFile,
    StreamDecoder,
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
)
from train.data.tokenizers.interface import BytesTokenizer, split_after_newline

CODE = 'def f(x):\n\tif x:\r\n        return  "a  b"\n\n\n' * 40

NASTY = [
    "",
    " ",
    "\n",
    "\t",
    "  leading and trailing  ",
    "a\tb\r\nc\rd\x0b\x0c\x00\x1f\x7f",
    "\u2581 the mark of a space \u2581\u2581 itself \u2581",
    "\ufeffbom \u00a0 nbsp \u2028 \u3000 \ufffd",
    "e\u0301 is not é; ﬁ is not fi; ① Å \u212b",
    "日本語 🙂👨‍👩‍👧 \U0010ffff",
    "<s></s><unk><0x41><|endoftext|> ⁇  \u2585",
    "x" * 5000,
    " " * 3000 + "\n" * 3000,
    CODE,
]


@pytest.fixture(scope="module")
def pieces():
    return make_tokenizer(SentencePiece(vocab_size=400), [prose(0, 20_000), CODE])


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([prose(0, 20_000), CODE], trainer)
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    tokenizer.save(str(path))
    return make_tokenizer(HuggingFace(path=str(path), end_of_document="<|endoftext|>"), [])


@pytest.fixture(scope="module")
def characters():
    return make_tokenizer(Characters(end_of_document=True), [*NASTY, prose(0, 20_000)])


@pytest.fixture(params=["pieces", "hugging_face", "characters", "bytes"])
def tokenizer(request):
    return make_tokenizer(Bytes(), []) if request.param == "bytes" else request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", NASTY)
def test_decode_gives_back_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.end_of_document not in ids
    assert tokenizer.decode(ids) == text


@settings(max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_sentencepiece_loses_nothing(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("step", [1, 2, 7])
def test_streaming_gives_the_same_text(tokenizer, text, step):
    ids = tokenizer.encode(text)
    stream = StreamDecoder(tokenizer)
    parts = [stream.push(ids[k : k + step]) for k in range(0, len(ids), step)]
    assert "".join(parts) + stream.flush() == text


def test_streaming_holds_back_half_a_character():
    stream = StreamDecoder(make_tokenizer(Bytes(), []))
    first, *rest = "ö!".encode()
    assert stream.push([first]) == ""
    assert [stream.push([b]) for b in rest] == ["ö", "!"]
    assert stream.push([first]) == ""
    assert stream.flush() == "\ufffd"


def test_save_and_load(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.vocab_size, loaded.end_of_document) == (tokenizer.vocab_size, tokenizer.end_of_document)
    assert loaded.encode(CODE).tolist() == tokenizer.encode(CODE).tolist()
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.option == tokenizer.option


def test_decode_leaves_out_the_end_and_refuses_other_ids(tokenizer):
    ids = [*tokenizer.encode("a b"), tokenizer.end_of_document, *tokenizer.encode("a")]
    assert tokenizer.decode(ids) == "a ba"
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="token ids run from"):
            tokenizer.decode([bad])


def test_sentencepiece_is_deterministic_and_loads_from_a_file(pieces, tmp_path):
    again = make_tokenizer(SentencePiece(vocab_size=400), [prose(0, 20_000), CODE])
    assert again.fingerprint() == pieces.fingerprint()
    pieces.save(tmp_path)
    loaded = make_tokenizer(SentencePieceFile(path=str(tmp_path / "tokenizer.model")), [])
    assert loaded.vocab_size == 400
    assert loaded.encode(CODE).tolist() == pieces.encode(CODE).tolist()


def test_sentencepiece_splits_digits_only_when_told():
    texts = ["12345 12345 12345\n" * 200, prose(1, 5000)]
    split = make_tokenizer(SentencePiece(vocab_size=320, split_digits=True), texts)
    whole = make_tokenizer(SentencePiece(vocab_size=320, split_digits=False), texts)
    assert len(split.encode("12345")) == 5
    assert len(whole.encode("12345")) < 5


def test_vocabularies_that_a_text_does_not_give():
    with pytest.raises(UserError, match=r"vocab_size=4000: this text gives at most \d+ pieces"):
        make_tokenizer(SentencePiece(vocab_size=4000), ["short"])
    many = "".join(chr(0x4E00 + k) for k in range(200))
    with pytest.raises(UserError, match=r"vocab_size=300: this text's characters alone take 45\d pieces"):
        make_tokenizer(SentencePiece(vocab_size=300), [many])


def test_unknown_character_is_named(tmp_path):
    tokenizer = make_tokenizer(Characters(), ["abc"])
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (3, None)
    for text, name in (("abz", r"'z' \(U\+007A, character 2"), ("a🙂", r"U\+1F642, character 1")):
        with pytest.raises(UserError, match=name):
            tokenizer.encode(text)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "x.model").write_bytes(b"nothing")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\.model is not a SentencePiece model"):
        make_tokenizer(SentencePieceFile(path=str(tmp_path / "x.model")), [])
    with pytest.raises(UserError, match=r"x\.json is not a tokenizer\.json"):
        make_tokenizer(HuggingFace(path=str(tmp_path / "x.json")), [])
    with pytest.raises(UserError, match="no tokenizer file"):
        make_tokenizer(SentencePieceFile(path=str(tmp_path / "y.model")), [])
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    save_tokenizer(make_tokenizer(Characters(), ["abc"]), tmp_path)
    (tmp_path / "characters.json").write_text(json.dumps({"characters": 3}))
    with pytest.raises(UserError, match=r"characters\.json: expected an object"):
        load_tokenizer(tmp_path)


def test_hugging_face_end_must_exist(hugging_face, tmp_path):
    hugging_face.save(tmp_path)
    option = HuggingFace(path=str(tmp_path / "tokenizer.json"), end_of_document="<eos>")
    with pytest.raises(UserError, match="has no token '<eos>'"):
        make_tokenizer(option, [])


@given(text=st.text("ab\n", max_size=50), size=st.integers(1, 9))
def test_split_after_newline(text, size):
    parts = list(split_after_newline(text, size))
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts)
    assert all(part.endswith("\n") or "\n" not in part for part in parts[:-1])


def test_a_tokenizer_without_marks_encodes_all_as_text():
    tokenizer = make_tokenizer(Bytes(), [])
    assert tokenizer.marks() == {}
    assert tokenizer.split_at_marks("<s>a") == ["<s>a"]
    assert tokenizer.encode_marked("<s>a").tolist() == list(b"<s>a")


def test_the_ends_of_tokens_in_the_text():
    letters = make_tokenizer(Characters(), ["abé"])
    for tokenizer, ends in ((make_tokenizer(Bytes(), []), [1, 2, 2, 3]), (letters, [1, 2, 3])):
        ids, found = tokenizer.encode_with_ends("aéb")
        assert ids.tolist() == tokenizer.encode("aéb").tolist()
        assert found.tolist() == ends
        assert tokenizer.encode_marked_with_ends("aéb")[1].tolist() == ends


def test_where_two_names_of_marks_begin_the_longer_counts():
    class Marked(BytesTokenizer):
        def marks(self):
            return {"<a": 256, "<a>": 257, "[b]": 258, "a>[b": 259}

    tokenizer = Marked(Bytes())
    assert tokenizer.split_at_marks("<a>[b]<ax<a<<a>") == ["<a>", "[b]", "<a", "x", "<a", "<", "<a>"]
    assert tokenizer.split_at_marks("") == []
    assert tokenizer.encode_marked("x<a>y").tolist() == [ord("x"), 257, ord("y")]
