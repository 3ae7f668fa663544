import dataclasses
import json
import pathlib

import numpy as np
import pytest

from model.errors import UserError
from tests.parity.alignment.masks import SHAPES, marked
from train.data.config import Bytes, HuggingFace, TokenizerOf
from train.data.conversations.found_template import template_of_dataset
from train.data.conversations.option import Conversations, HeldOutConversations, SeparateConversations, TemplateFile
from train.data.conversations.tokens import COUNTS
from train.data.prepare.prepare import prepare
from train.data.prepare.progress import Reporter
from train.data.shards.dataset import open_dataset
from train.data.tokenizers.interface import save_tokenizer


def chat(*texts):
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}


class Told(Reporter):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


@pytest.fixture
def option(write_rows):
    """The option for some rows, with validation rows of their own; the plain template adds 18 bytes and two marks."""

    def make(*rows, **changes):
        held = write_rows(chat("held", "out"), name="held.jsonl")
        given = {
            "path": str(write_rows(*rows)),
            "tokenizer": Bytes(),
            "validation": SeparateConversations(path=str(held)),
        }
        return Conversations(**(given | {"sequence_length": 64} | changes)).starting_from(None)

    return make


def prepared(option, folder):
    told = Told()
    return open_dataset(prepare(option, folder, told)), told.lines


def test_tokens_notes_names_and_the_template(option, tmp_path):
    dataset, told = prepared(option(chat("a", "bc"), chat("d", "é", "f", "g")), tmp_path / "data")
    (split,) = dataset.split("train")
    texts = [dataset.tokenizer.decode(split.tokens(i)) for i in range(2)]
    assert texts == ["user:\na\nassistant:\nbc", "user:\nd\nassistant:\néuser:\nf\nassistant:\ng"]
    assert [split.document_name(i) for i in range(2)] == ["rows.jsonl:1", "rows.jsonl:2"]
    notes = np.load(dataset.folder / "train.tokens.npy")
    assert len(notes) == split.num_tokens
    counted = np.concatenate([split.tokens(i) for i in range(2)])[notes >= COUNTS]
    assert counted.tolist() == [*b"bc", 256, *"é".encode(), 256, *b"g", 256]
    (held,) = dataset.split("validation")
    assert dataset.tokenizer.decode(held.tokens(0)) == "user:\nheld\nassistant:\nout"
    assert template_of_dataset(dataset.folder).stop_tokens == ()
    assert told == [f"3 conversations of 94 tokens by Cairn's plain chat template; {12 / 94:.1%} of the tokens count (data.mask='assistant')"]  # fmt: skip


def test_the_same_settings_are_used_again_and_others_refused(option, tmp_path, write_rows):
    data = option(chat("a", "bc"))
    dataset, _ = prepared(data, tmp_path / "data")
    written = (dataset.folder / "dataset.json").stat().st_mtime_ns
    assert prepared(data, tmp_path / "data")[1] == []
    assert (dataset.folder / "dataset.json").stat().st_mtime_ns == written
    with pytest.raises(
        UserError, match=r"mask: .*assistant.* -> .*all[\s\S]*delete it to prepare it again, or name"
    ) as e:
        prepare(dataclasses.replace(data, mask="all"), tmp_path / "data")
    assert "data.path" not in str(e.value)
    pathlib.Path(data.path).unlink()
    prepare(data, tmp_path / "data")  # a finished folder needs its files no longer
    write_rows(chat("a", "bd"))
    with pytest.raises(UserError, match="has changed"):
        prepare(data, tmp_path / "data")


def test_conversations_that_are_too_long(option, tmp_path):
    rows = [chat("a", "b"), chat("c", "d", "x" * 30, "e"), chat("y" * 60, "f")]
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: 72 tokens, more than the 65 of a row with data.sequence"):
        prepared(option(*rows), tmp_path / "refuse")
    dataset, told = prepared(option(*rows, too_long="drop"), tmp_path / "drop")
    assert dataset.count("train", "documents") == 1
    where = f"the first {tmp_path}/rows.jsonl, line 2 (72 tokens) (data.too_long)"
    assert told[0] == f"WARNING: conversations longer than 65 tokens: 2 were left out, {where}"
    dataset, told = prepared(option(*rows, too_long="shorten"), tmp_path / "shorten")
    (split,) = dataset.split("train")
    assert dataset.tokenizer.decode(split.tokens(1)) == "user:\nc\nassistant:\nd"
    assert split.num_documents == 2
    assert "1 were left out, the first" in told[0]
    assert "1 were shortened, the first" in told[0]
    with pytest.raises(
        UserError, match="no conversation is left to learn from; conversations longer than 65 tokens: 1"
    ):
        prepared(option(rows[2], too_long="drop"), tmp_path / "none")


def test_a_row_of_exactly_the_length_fits(option, tmp_path):
    assert prepared(option(chat("a", "x" * 44)), tmp_path / "data")[0].count("train", "tokens") == 65
    with pytest.raises(UserError, match="66 tokens, more than the 65"):
        prepared(option(chat("a", "x" * 45)), tmp_path / "more")


def test_a_share_is_held_out_by_content(write_rows, tmp_path):
    rows = [chat(f"{i % 100}", "b") for i in range(200)]
    data = Conversations(
        path=str(write_rows(*rows)), tokenizer=Bytes(), validation=HeldOutConversations(fraction=0.2)
    ).starting_from(None)
    dataset, _ = prepared(data, tmp_path / "data")
    (train,), (held,) = (dataset.split(name) for name in ("train", "validation"))
    texts = [{dataset.tokenizer.decode(s.tokens(i)) for i in range(s.num_documents)} for s in (train, held)]
    assert not texts[0] & texts[1]
    assert held.num_documents == 2 * len(texts[1])
    assert 20 < held.num_documents < 60
    other = dataclasses.replace(data, validation=HeldOutConversations(fraction=0.2, seed=1))
    assert prepared(other, tmp_path / "other")[0].count("validation", "documents") != 0
    notes = [(folder / "validation.tokens.npy").read_bytes() for folder in (tmp_path / "data", tmp_path / "other")]
    assert notes[0] != notes[1]
    few = dataclasses.replace(data, validation=HeldOutConversations(fraction=1e-9))
    with pytest.raises(UserError, match="no conversation is left to validate on; give more rows, or hold out another"):
        prepared(few, tmp_path / "few")


def test_a_template_in_a_file_and_its_ends(option, tokenizer_files, tmp_path):
    (tmp_path / "chatml.jinja").write_text(marked(SHAPES["chatml"]))
    tokenizer = HuggingFace(path=str(tokenizer_files[True]), end_of_document="</s>")
    data = option(chat("a", "b"), tokenizer=tokenizer, template=TemplateFile(path=str(tmp_path / "chatml.jinja")))
    dataset, told = prepared(data, tmp_path / "data")
    assert template_of_dataset(dataset.folder).stop_tokens == (dataset.tokenizer.marks()["<|im_end|>"],)
    assert not any("WARNING" in line for line in told)
    (tmp_path / "bare.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    data = option(chat("a", "b"), tokenizer=tokenizer, template=TemplateFile(path=str(tmp_path / "bare.jinja")))
    _, told = prepared(data, tmp_path / "bare")
    assert "WARNING: no mark of the tokenizer ends the answers" in told[0]


def test_a_tokenizer_and_a_template_are_needed(option, tmp_path):
    with pytest.raises(UserError, match="data.tokenizer: expected one, because the run starts from no other"):
        prepare(option(chat("a", "b"), tokenizer=None), tmp_path / "data")
    save_tokenizer(open_dataset(prepared(option(chat("a", "b")), tmp_path / "one")[0].folder).tokenizer, tmp_path / "t")
    data = option(chat("a", "b"), tokenizer=TokenizerOf(path=str(tmp_path / "t")))
    assert prepared(data, tmp_path / "two")[0].count("train", "documents") == 1


def test_nothing_is_finished_by_a_row_that_fails(option, tmp_path):
    bad = option(chat("a", "b"), {"messages": [{"role": "user", "content": "a"}]})
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: has no message of the assistant"):
        prepared(bad, tmp_path / "data")
    assert not list((tmp_path / "data").glob("*.array_record*"))
    pathlib.Path(bad.path).write_text(json.dumps(chat("a", "b")) + "\n")
    assert prepared(bad, tmp_path / "data")[0].count("train", "documents") == 1
