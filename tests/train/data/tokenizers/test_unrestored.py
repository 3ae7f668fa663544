"""The text that decoding loses is counted when the text is prepared, and recorded in the dataset."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tests.train.data.conftest import prose
from tests.train.data.tokenizers.test_sentencepieces import train_sentencepiece
from train.data import (
    Bytes,
    Data,
    HuggingFace,
    SentencePieceFile,
    Source,
    make_tokenizer,
    open_dataset,
    prepare,
)
from train.data.config import Characters, SentencePiece, SeparateText
from train.data.prepare.summary import summary
from train.data.tokenizers.huggingface import is_byte_lossless
from train.data.tokenizers.unrestored import UnrestoredText, unrestored_text
from train.files.files import read_json, write_json


class Lossy:
    """Decodes to a text that is set."""

    def __init__(self, text):
        self.text = text

    def decode(self, ids):
        return self.text

    def is_lossless(self):
        return False


NONE = np.zeros(0, np.int32)


@pytest.mark.parametrize(
    ("text", "decoded", "unrestored"),
    [
        ("a  b", "a  b", UnrestoredText(0, 0)),
        ("a  b", "a b", UnrestoredText(1, 1)),
        ("\u6cb3a\u6cb3", "a\u2047", UnrestoredText(1, 6)),
        ("\u00e9\U0001f642", "", UnrestoredText(1, 6)),
        ("ab", "ba", UnrestoredText(1, 0)),
        ("ab", " ab", UnrestoredText(1, 0)),
        ("", "", UnrestoredText(0, 0)),
    ],
)
def test_what_is_lost(text, decoded, unrestored):
    assert unrestored_text(Lossy(decoded), text, NONE) == unrestored


@given(text=st.text("a\u00e9\u6cb3\U0001f642 ", max_size=20), decoded=st.text("a\u00e9\u6cb3\U0001f642", max_size=20))
def test_long_texts_are_counted_alike(text, decoded):
    with pytest.MonkeyPatch.context() as patch:
        one = unrestored_text(Lossy(decoded), text, NONE)
        patch.setattr("train.data.tokenizers.unrestored.LONG_TEXT", 0)
        assert unrestored_text(Lossy(decoded), text, NONE) == one


def byte_level(**changes):
    """A byte-level tokenizer.json, trained on a little text, with some of its fields changed."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([prose(0, 2000)], trainer)
    tokenizer.add_special_tokens(["</s>"])
    about = json.loads(tokenizer.to_str())
    for token in changes.get("added_tokens", []):
        token["content"] = token["content"].replace("MERGED", "".join(about["model"]["merges"][0]))
    for name, value in changes.items():
        at = about["model"] if name in about["model"] else about
        at[name] = value
    return about


def added(content, **fields):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 400, "content": content, **flags, **fields}]


NOT_KEPT = {
    "a normalizer": {"normalizer": {"type": "NFC"}},
    "a prefix": {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    },
    "words without spaces": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
    "another decoder": {"decoder": {"type": "Fuse"}},
    "bytes missing": {"vocab": {"a": 0}, "merges": []},
    "a suffix": {"end_of_word_suffix": "</w>"},
    "words that are tokens": {"ignore_merges": True},
    "a text becomes a special token": {"added_tokens": added("MERGED", special=True)},
    "a byte is a special token": {"added_tokens": added("|", special=True)},
    "a token takes spaces": {"added_tokens": added("<t>", lstrip=True)},
    "a token reads as other bytes": {"added_tokens": added("\u00e9")},
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_which_byte_level_tokenizers_are_compared_after_all(name):
    assert is_byte_lossless(byte_level())
    assert is_byte_lossless(byte_level(added_tokens=added("<t>")))
    assert not is_byte_lossless(byte_level(**NOT_KEPT[name]))


@given(text=st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.text("the </s><t>\u00e9\u0120\n")))
def test_a_byte_level_tokenizer_loses_nothing(byte_level_tokenizer, text):
    assert byte_level_tokenizer.is_lossless()
    assert byte_level_tokenizer.decode(byte_level_tokenizer.encode(text)) == text


@pytest.fixture(scope="module")
def byte_level_tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    path.write_text(json.dumps(byte_level(added_tokens=[*added("</s>", special=True, id=300), *added("<t>", id=301)])))
    return make_tokenizer(HuggingFace(path=str(path), end_of_document="</s>"), [])


def test_an_end_that_a_text_can_hold_is_lost(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(byte_level(added_tokens=added("<t>", id=300))))
    for end, lossless in ((None, True), ("<t>", False), ("a", False)):
        assert make_tokenizer(HuggingFace(path=str(path), end_of_document=end), []).is_lossless() == lossless


def test_which_tokenizers_lose_nothing(tmp_path):
    kept = [Bytes(), Characters(), SentencePiece(vocab_size=300)]
    made = [make_tokenizer(option, [prose(0, 3000)]) for option in kept]
    assert [tokenizer.is_lossless() for tokenizer in made] == [True, True, True]
    foreign, _ = train_sentencepiece(tmp_path / "t.model")
    assert not foreign.is_lossless()


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """The options for a text, and the text, of which a SentencePiece model with its own defaults loses a part."""
    folder = tmp_path_factory.mktemp("lossy")
    train_sentencepiece(folder / "t.model")
    texts = {"train": ["the list of a", "the  list", "\u6cb3\u8fb9 of"], "held": ["self  while", "self"]}
    for name, documents in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return Data(
        path=str(folder / "train.jsonl"),
        tokenizer=SentencePieceFile(path=str(folder / "t.model")),
        validation=SeparateText(path=str(folder / "held.jsonl")),
    )


def test_the_loss_is_kept_with_the_dataset(lossy, tmp_path):
    folder = prepare(lossy, tmp_path / "data")
    dataset = open_dataset(folder)
    # One of two spaces; both Chinese characters of the river bank, three bytes each.
    assert dataset.unrestored("train") == UnrestoredText(documents=2, bytes=7)
    assert dataset.unrestored("validation") == UnrestoredText(documents=1, bytes=1)
    assert dataset.unrestored_in_words("train") == "the tokenizer loses 7 bytes (22.58%), in 2 documents"
    assert "WARNING: validation: the tokenizer loses 1 byte (6.67%), in 1 document" in summary(folder)
    again = open_dataset(prepare(lossy, tmp_path / "again", workers=2))
    assert again.description == dataset.description


def test_a_dataset_that_was_not_counted_is_unknown_where_it_may_lose_text(lossy, tmp_path, dataset, data):
    folder = prepare(lossy, tmp_path / "data")
    for path in (folder, prepare(data, tmp_path / "bytes")):
        description = read_json(path / "dataset.json")
        for split in description["splits"].values():
            del split["not_restored"]
        write_json(path / "dataset.json", description)
    assert open_dataset(folder).unrestored("train") is None
    assert open_dataset(folder).unrestored_in_words("train") == "bytes that the tokenizer loses: unknown"
    assert "unknown" in summary(folder)
    assert open_dataset(tmp_path / "bytes").unrestored("train") == UnrestoredText()
    assert dataset.unrestored_in_words("train") is None
    assert "WARNING" not in summary(dataset.folder)


def test_a_mixture_adds_up_its_members(lossy, tmp_path):
    paths = (Source(path=lossy.path), Source(path=lossy.validation.path))
    mixed = Data(path=paths, tokenizer=lossy.tokenizer, validation=SeparateText(path=lossy.path))
    dataset = open_dataset(prepare(mixed, tmp_path / "data"))
    assert dataset.unrestored("train") == UnrestoredText(3, 8)
    assert dataset.unrestored("validation") == UnrestoredText(4, 14)  # held out once for each


def test_parts_of_an_earlier_version_make_it_unknown(lossy, tmp_path, monkeypatch):
    from train.data.prepare.tokenizing import JobRunner

    real = JobRunner.run

    def run(self, job):
        part = real(self, job)
        del part["not_restored"]
        return part

    monkeypatch.setattr(JobRunner, "run", run)
    assert open_dataset(prepare(lossy, tmp_path / "data", workers=1)).unrestored("train") is None


def test_text_without_any_token_is_lost(tmp_path):
    train_sentencepiece(tmp_path / "t.model")
    (tmp_path / "x.jsonl").write_text('{"text": "   "}\n{"text": "the list"}\n')
    option = Data(
        path=str(tmp_path / "x.jsonl"), tokenizer=SentencePieceFile(path=str(tmp_path / "t.model")), validation=None
    )
    dataset = open_dataset(prepare(option, tmp_path / "data"))
    assert dataset.count("train", "documents") == 1
    assert dataset.unrestored("train") == UnrestoredText(documents=1, bytes=3)
