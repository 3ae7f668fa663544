import json

import numpy as np
import pytest

from model.errors import UserError
from train.data import (
    open_dataset,
    prepare,
)
from train.data.prepare.summary import verify


def test_documents_keep_names_text_and_counts(corpus, data, dataset):
    assert dataset.vocab_size == 257
    seen = {}
    for name in ("train", "validation"):
        split = dataset.splits[name]
        for d in range(split.num_documents):
            text = dataset.tokenizer.decode(split.tokens(d))
            row = split.documents[d]
            assert (len(text.encode()), len(text.split())) == (row["bytes"], row["words"])
            seen[split.document_name(d)] = text
        assert split.num_bytes == dataset.count(name, "bytes") == split.documents["bytes"].sum()
    assert seen == {p.name: p.read_text() for p in corpus.iterdir()}
    assert dataset.count("test", "bytes") == 0


def test_damaged_folders_are_named(data, tmp_path):
    folder = prepare(data, tmp_path / "d")
    text = (folder / "dataset.json").read_text()
    description = json.loads(text)
    train = description["splits"]["train"] | {"not_restored": {"documents": 1}}
    for content, message in [
        ("{", "dataset.json is damaged: expected JSON"),
        (json.dumps({"format": 99}), "dataset.json: format 99, expected 1"),
        (json.dumps({"format": 1}), "dataset.json is damaged"),
        (json.dumps(description | {"splits": {"train": train}}), r"splits\.train\.not_restored\.bytes: is missing"),
    ]:
        (folder / "dataset.json").write_text(content)
        with pytest.raises(UserError, match=message):
            open_dataset(folder)
    (folder / "dataset.json").write_text(text)
    np.save(folder / "train.documents.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"train.documents.npy is missing or damaged"):
        _ = open_dataset(folder).splits["train"].documents
    (folder / "train.documents.npy").unlink()
    (folder / "train.documents.npy").symlink_to("train.documents.npy")  # a loop, which nobody can open
    with pytest.raises(UserError, match=r"cannot read .*train.documents.npy: Too many levels .*; nothing was changed"):
        _ = open_dataset(folder).splits["train"].documents
    shard = next(folder.glob("train-*.array_record"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(UserError, match="SHA-256"):
        verify(folder)
