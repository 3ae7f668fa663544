"""Settings stored in a tokenizer.json that change the ids of a text are off, and reported once."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from model.errors import UserError
from tests.parity.chat.templates import MARKS
from tests.parity.chat.templates import make_tokenizer as make_marked_tokenizer
from tests.train.data.conftest import prose
from train.data import (
    Data,
    HuggingFace,
    TokenizerOf,
    load_tokenizer,
    make_tokenizer,
    open_dataset,
    prepare,
    save_tokenizer,
)
from train.data.prepare.progress import Reporter
from train.data.tokenizers.huggingface import HuggingFaceTokenizer

TEXT = prose(0, 500)
PADDING = {"pad_id": 7, "pad_type_id": 0, "pad_token": "x"}
TRUNCATION = {"strategy": "LongestFirst", "stride": 0}
SETTINGS = {
    "truncation": {"truncation": TRUNCATION | {"direction": "Right", "max_length": 16}},
    "truncation, left, to nothing": {"truncation": TRUNCATION | {"direction": "Left", "max_length": 0}},
    "truncation, stride": {"truncation": TRUNCATION | {"direction": "Right", "max_length": 9, "stride": 4}},
    "truncation, impossible": {"truncation": TRUNCATION | {"direction": "Right", "max_length": 4, "stride": 9}},
    "truncation, of pairs": {
        "truncation": {"direction": "Right", "max_length": 9, "strategy": "OnlySecond", "stride": 0}
    },
    "padding": {"padding": PADDING | {"strategy": {"Fixed": 900}, "direction": "Right", "pad_to_multiple_of": None}},
    "padding, left": {
        "padding": PADDING | {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 512}
    },
    "dropout": {"dropout": 0.5},
    "dropout of all": {"dropout": 1},
}
SAID = {
    "truncation": "truncation to 16 tokens",
    "truncation, left, to nothing": "truncation to 0 tokens",
    "truncation, stride": "truncation to 9 tokens",
    "truncation, impossible": "truncation to 4 tokens",
    "truncation, of pairs": "truncation to 9 tokens",
    "padding": "padding on the right",
    "padding, left": "padding on the left",
    "dropout": "a dropout of 0.5 of the merges",
    "dropout of all": "a dropout of 1 of the merges",
}


@pytest.fixture(scope="module")
def plain():
    """A tokenizer.json without such settings, whose post-processor adds a token before and one after a text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    return tokenizer


def written(plain, folder, name):
    """Writes a tokenizer.json with a setting into a folder."""
    about = json.loads(plain.to_str())
    setting = dict(SETTINGS.get(name, {}))
    if "dropout" in setting:
        about["model"]["dropout"] = setting.pop("dropout")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(about | setting, ensure_ascii=False))
    return path


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_off_and_the_file_is_kept(plain, tmp_path, name):
    path = written(plain, tmp_path, name)
    right = plain.encode(TEXT, add_special_tokens=False).ids
    tokenizer = make_tokenizer(HuggingFace(path=str(path), end_of_document="</s>"), [])
    for _ in range(3):
        assert tokenizer.encode(TEXT).tolist() == right
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.disabled_settings == (SAID[name],)
    assert f"asks for {SAID[name]}: off here" in tokenizer.warning()
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == path.read_bytes()
    assert load_tokenizer(tmp_path / "saved").encode(TEXT).tolist() == right


def test_nothing_is_said_of_a_file_without_them(plain, tmp_path):
    tokenizer = make_tokenizer(HuggingFace(path=str(written(plain, tmp_path, "none"))), [])
    assert (tokenizer.disabled_settings, tokenizer.warning()) == ((), None)


def test_all_settings_are_named(plain, tmp_path):
    path = written(plain, tmp_path, "dropout")
    about = json.loads(path.read_text()) | SETTINGS["padding, left"] | SETTINGS["truncation"]
    path.write_text(json.dumps(about))
    off = make_tokenizer(HuggingFace(path=str(path)), []).disabled_settings
    assert off == ("truncation to 16 tokens", "padding on the left", "a dropout of 0.5 of the merges")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dataset_says_it_once(plain, tmp_path, workers, monkeypatch):
    said = []
    monkeypatch.setattr(Reporter, "message", lambda self, line: said.append(line))
    path = written(plain, tmp_path, "truncation")
    (tmp_path / "text").mkdir()
    for k in range(4):
        (tmp_path / "text" / f"{k}.txt").write_text(prose(k, 400))
    option = Data(path=str(tmp_path / "text"), tokenizer=HuggingFace(path=str(path)), validation=None)
    dataset = open_dataset(prepare(option, tmp_path / "data", workers=workers))
    expected = sum(len(plain.encode(prose(k, 400), add_special_tokens=False)) for k in range(4))
    assert dataset.count("train", "tokens") == expected
    prepare(option, tmp_path / "data", workers=workers)
    assert len(said) == 1
    other = Data(path=str(tmp_path / "text"), tokenizer=TokenizerOf(path=str(tmp_path / "data")), validation=None)
    assert open_dataset(prepare(other, tmp_path / "other")).count("train", "tokens") == expected


def test_special_tokens_in_a_text_are_text(plain, tmp_path):
    tokenizer = make_tokenizer(HuggingFace(path=str(written(plain, tmp_path, "padding")), end_of_document="</s>"), [])
    ids = tokenizer.encode("<s>a</s>")
    assert tokenizer.end_of_document not in ids
    assert tokenizer.decode(ids) == "<s>a</s>"


def test_a_word_that_a_closed_vocabulary_lacks_is_an_error_of_the_user():
    closed = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"))
    closed.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = HuggingFaceTokenizer(HuggingFace(path="t.json"), closed.to_str().encode(), "t.json")
    assert tokenizer.encode("a b a").tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="the tokenizer cannot encode this text: .*; give a text that it knows"):
        tokenizer.encode("a c")


def test_names_of_special_tokens_become_tokens_where_asked_for(tmp_path):
    path = make_marked_tokenizer(tmp_path)
    tokenizer = make_tokenizer(HuggingFace(path=str(path)), [])
    assert tokenizer.marks().keys() == set(MARKS)
    ids = tokenizer.encode_marked("<s>hello<|im_end|>").tolist()
    hello = tokenizer.encode("hello").tolist()
    assert ids == [tokenizer.token_id("<s>"), *hello, tokenizer.token_id("<|im_end|>")]
    assert tokenizer.token_id("<s>") not in tokenizer.encode("<s>hello").tolist()
