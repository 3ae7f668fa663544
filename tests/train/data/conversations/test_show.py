import re

import pytest

from train.data.config import Bytes
from train.data.conversations.option import Conversations, SeparateConversations
from train.data.conversations.show import shown_step, token_texts
from train.data.prepare.prepare import prepare
from train.data.shards.dataset import open_dataset

ROW = {"messages": [{"role": "user", "content": "a\u001b"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture
def shown(write_rows, tmp_path):
    path = str(write_rows(ROW))
    data = Conversations(
        path=path, tokenizer=Bytes(), validation=SeparateConversations(path=path), batch_size=1, sequence_length=48
    ).starting_from(None)
    dataset = open_dataset(prepare(data, tmp_path / "data"))
    return data, dataset


def test_a_line_for_each_token(shown):
    data, dataset = shown
    lines = data.shown(dataset, 1, None, 60).splitlines()
    assert lines[0] == "step 1: batch 0; a token that counts is marked *"
    assert lines[1] == "row 0, columns 0:22, rows.jsonl:1: 2 of 22 targets count"
    assert lines[2] == "     0 256  template    '<end of document>'"
    assert lines[9:11] == ["     7  97  user        'a'", "     8  27  user        '\\x1b'"]
    assert lines[-2:] == ["    21  98  assistant * 'b'", "    22 256  assistant * '<end of document>'"]
    assert len(lines) == 2 + 23


def test_colours_on_a_terminal(shown):
    data, dataset = shown
    text = shown_step(data.training_batches(dataset, ("tokens", "targets")), 1, [0], colour=True)
    assert "\x1b[36ma\x1b[0m" in text
    assert "\x1b[32;1mb\x1b[0m" in text
    assert re.sub(r"\x1b\[[0-9;]+m", "", text).endswith("user:\na\\x1b\nassistant:\nb<end of document>")


def test_names_of_marks(tokenizers):
    marks = {i: name for name, i in tokenizers[True].marks().items()}
    ids = tokenizers[True].encode_marked("<|im_start|>hi").tolist()
    assert token_texts(tokenizers[True], ids, marks) == ["<|im_start|>", "h", "i"]
