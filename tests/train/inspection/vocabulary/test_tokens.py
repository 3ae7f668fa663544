"""What a tokenizer does to a text: scripts, pieces of several tokens, two tokenizers."""

import json
import re

import pytest

from model.errors import UserError
from train.data.config import Bytes, Characters
from train.data.tokenizers.interface import BytesTokenizer, CharactersTokenizer, save_tokenizer
from train.evaluation.output.pieces import Piece
from train.inspection.vocabulary.tokens import Named, _scripts, by_script, inspect, open_tokenizer, pieces_of, script_of

TEXT = "café 12\nкот 猫"  # noqa: RUF001


@pytest.fixture
def run(tmp_path):
    return Named(tmp_path, BytesTokenizer(Bytes()))


def test_scripts():
    words = {"cat": "Latin", "é": "Latin", "кот": "Cyrillic", "猫": "Han", " ": "spaces", "12": "digits", "+": "signs"}
    assert {word: script_of(word) for word in words} == words
    assert script_of("ひらがな") == "Hiragana"
    assert script_of("한국") == "Hangul"


def test_pieces_and_bytes_of_scripts():
    ids, pieces = pieces_of(BytesTokenizer(Bytes()), TEXT)
    assert "".join(piece.text for piece in pieces) == TEXT
    assert [len(piece.tokens[0]) for piece in pieces] == [len(letter.encode()) for letter in TEXT]
    assert len(ids) == len(TEXT.encode())
    found = by_script(pieces)
    assert found["Cyrillic"] == (6, 6)
    assert found["Latin"] == (5, 5)
    assert next(iter(found)) == "Cyrillic"
    assert by_script(pieces_of(CharactersTokenizer(Characters(), TEXT), TEXT)[1])["Han"] == (3, 1)


def test_two_tokenizers_side_by_side(run, tmp_path):
    other = tmp_path / "other"
    save_tokenizer(CharactersTokenizer(Characters(), TEXT + "strawberry"), other)
    (other / "dataset.json").write_text(json.dumps({}))
    result = inspect(run, text=TEXT, against=str(other), words=["strawberry"])
    page = result.write(tmp_path / "out").read_text()
    (data,) = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert [len(reading["pieces"]) for reading in data["readings"]] == [len(TEXT)] * 2
    assert data["readings"][0]["pieces"][3] == ["é", [195, 169], ["\ufffd", "\ufffd"]]
    counts = [each["tokens"] for each in result.numbers["tokenizers"]]
    assert counts == [len(TEXT.encode()), len(TEXT)]
    letters = next(part for part in result.parts if part.title == "Letters")
    assert letters.rows[0][:3] == ["strawberry", "r", "3"]
    assert letters.rows[0][4].count(":1") == 3
    languages = next(part for part in result.parts if part.title.startswith("One sentence"))
    assert languages.rows[0][4] == "not known"


def test_bytes_of_a_script_are_those_of_each_tokenizer():
    """A space is a token of the first tokenizer, and the beginning of a word of the second."""
    readings = [
        (None, [Piece(text, ((None,),)) for text in pieces]) for pieces in (("an", " ", "object"), ("an", " object"))
    ]
    table = _scripts(["one", "two"], readings)
    assert list(table.head[1:4]) == ["bytes (A)", "tokens (A)", "bytes a token (A)"]
    assert table.rows == [
        ["Latin", "8", "2", "4.00", "9", "2", "4.50"],
        ["spaces", "1", "1", "1.00", "0", "0", "\u2013"],
    ]


def test_refused_and_cut(run, tmp_path):
    with pytest.raises(UserError, match="--text is empty"):
        inspect(run, text="")
    assert "first 20,000" in inspect(run, text="a" * 20_001).notes[0]
    with pytest.raises(UserError, match="has no dataset"):
        open_tokenizer(tmp_path / "nowhere")


def test_the_tokenizer_of_a_run(tiny_run):
    assert open_tokenizer(tiny_run).tokenizer.vocab_size == 257
