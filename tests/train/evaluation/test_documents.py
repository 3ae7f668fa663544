import numpy as np
import pytest

from model.errors import UserError
from train.data.config import Bytes, Characters, Data, SeparateText
from train.data.prepare.prepare import prepare
from train.data.shards.dataset import open_dataset
from train.data.tokenizers.interface import BytesTokenizer, CharactersTokenizer
from train.data.tokenizers.unrestored import UnrestoredText
from train.evaluation.documents import (
    Text,
    from_files,
    from_split,
    from_text,
    joined,
    read_texts,
    split_text,
    texts_of_split,
    tokenized,
)

TOKENIZER = BytesTokenizer(Bytes())
TEXTS = {"a.txt": "one two\r\n", "b/c.md": "café\n", "b/d.txt": " x  y "}


@pytest.fixture
def folder(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "b/empty.txt").touch()
    return tmp_path


def sizes(documents):
    return {d.name: (d.num_bytes, d.num_words, len(d.ids), d.restored) for d in documents}


def test_files_have_the_bytes_and_words_of_their_original(folder):
    everything = {"a.txt": (9, 2, 9, True), "b/c.md": (6, 1, 6, True), "b/d.txt": (6, 2, 6, True)}
    assert sizes(from_files(TOKENIZER, [str(folder)])) == everything
    assert sizes(from_files(TOKENIZER, [str(folder / "**" / "*.txt")])).keys() == {"a.txt", "b/d.txt"}
    assert sizes(from_files(TOKENIZER, [str(folder / "a.txt"), str(folder / "b/c.md")])).keys() == {"a.txt", "c.md"}


def test_rows_of_a_table_are_documents(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"body": "one"}\n{"body": "two words"}\n')
    documents = list(from_files(TOKENIZER, [str(tmp_path / "t.jsonl")], field="body"))
    assert [(d.num_bytes, d.num_words) for d in documents] == [(3, 1), (9, 2)]


def test_bad_files_are_refused_by_name(folder):
    (folder / "bad.txt").write_bytes(b"abc\xff")
    for path, message in (
        (folder / "nowhere.txt", "nowhere.txt"),
        (folder / "b/empty.txt", "empty"),
        (folder / "*.rst", "matches no file"),
        (folder / "bad.txt", r"bad.txt is not UTF-8 at byte 3"),
    ):
        with pytest.raises(UserError, match=message):
            list(from_files(TOKENIZER, [str(path)]))


def test_a_tokenizer_that_loses_text_is_noticed():
    class Lossy(CharactersTokenizer):
        def decode(self, ids):
            return super().decode(ids).lower()

    tokenizer = Lossy(Characters(), "abA")
    assert from_text(tokenizer, "x", "ab").restored
    assert not from_text(tokenizer, "x", "Ab").restored


def test_a_split_gives_back_its_documents(folder, tmp_path_factory):
    train = tmp_path_factory.mktemp("train")
    (train / "t.txt").write_text("training text")
    into = tmp_path_factory.mktemp("dataset")
    data = Data(path=str(train), tokenizer=Bytes(), validation=SeparateText(path=str(folder)))
    dataset = open_dataset(prepare(data, into))
    found = list(from_split(dataset, "validation"))
    assert sizes(found) == sizes(from_files(TOKENIZER, [str(folder)]))
    for document in found:
        np.testing.assert_array_equal(document.ids, TOKENIZER.encode(TEXTS[document.name]))
    assert split_text(dataset, "validation") == "".join(TEXTS.values()).encode()
    assert split_text(dataset, "train") == b"training text"
    with pytest.raises(UserError, match="no split 'test'"):
        from_split(dataset, "test")


def test_what_is_left_out_is_said_on_standard_error(folder, capsys):
    (folder / ".git").mkdir()
    list(from_files(TOKENIZER, [str(folder)]))
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"{folder}: left out hidden files and caches: .git\n")


ROWS = '{"text": "one", "domain": "a"}\n{"text": "two words", "domain": "b"}\n{"text": "three"}\n'


def test_rows_and_paths_have_domains(tmp_path, folder):
    table = tmp_path / "t.jsonl"
    table.write_text(ROWS)
    texts = list(read_texts([str(table), str(folder / "a.txt")]))
    assert [(text.text, text.domain) for text in texts] == [
        ("one", "a"),
        ("two words", "b"),
        ("three", str(table)),
        ("one two\r\n", str(folder / "a.txt")),
    ]
    documents = list(tokenized(TOKENIZER, texts))
    assert [document.domain for document in documents] == [text.domain for text in texts]
    assert [document.num_characters for document in documents] == [3, 9, 5, 9]


def test_a_domain_field_that_is_asked_for_must_be_there(tmp_path, folder):
    table = tmp_path / "t.jsonl"
    table.write_text(ROWS)
    with pytest.raises(UserError, match=r"t.jsonl, line 3 .*: no field 'domain'; it has 'text'"):
        list(read_texts([str(table)], domain_field="domain"))
    with pytest.raises(UserError, match=r"line 1 .*: no field 'source'; it has 'text', 'domain'"):
        list(read_texts([str(table)], domain_field="source"))
    with pytest.raises(UserError, match="a.txt is plain text, which has no field 'source'"):
        read_texts([str(folder / "a.txt")], domain_field="source")
    table.write_text('{"text": "one", "source": ""}\n')
    with pytest.raises(UserError, match="the field 'source' is empty"):
        list(read_texts([str(table)], domain_field="source"))


def test_a_row_without_text_keeps_its_domain(tmp_path):
    """So that a domain without any text is noticed."""
    table = tmp_path / "t.jsonl"
    table.write_text('{"text": "", "domain": "a"}\n{"text": ""}\n{"text": "b", "domain": 3}\n')
    assert [(text.text, text.domain) for text in read_texts([str(table)])] == [("", "a"), ("b", str(table))]


def test_a_stream_is_one_text_for_each_domain(tmp_path):
    table = tmp_path / "t.jsonl"
    table.write_text('{"text": "x", "domain": "a"}\n{"text": "y", "domain": "b"}\n{"text": "z", "domain": "a"}\n')
    streams = list(joined(read_texts([str(table)]), "\n\n"))
    assert [(stream.domain, stream.text) for stream in streams] == [("a", "x\n\nz"), ("b", "y")]


def test_a_text_that_the_tokenizer_does_not_know_is_named():
    tokenizer = CharactersTokenizer(Characters(), "ab")
    with pytest.raises(UserError, match=r"^t.txt: character 'c' \(U\+0063, character 2 of the text\)"):
        list(tokenized(tokenizer, [Text("t.txt", "", "abc")]))


def test_the_texts_of_a_split_are_the_original_ones(folder, tmp_path_factory, monkeypatch):
    data = Data(path=str(folder), tokenizer=Bytes(), validation=None)
    dataset = open_dataset(prepare(data, tmp_path_factory.mktemp("dataset")))
    assert {text.name: text.text for text in texts_of_split(dataset, "train")} == TEXTS
    assert [document.num_characters for document in from_split(dataset, "train")] == [len(t) for t in TEXTS.values()]
    monkeypatch.setattr(type(dataset), "unrestored", lambda self, split: UnrestoredText(1, 2))
    with pytest.raises(UserError, match="its tokenizer loses a part of the text; give the text itself with --text"):
        texts_of_split(dataset, "train")
