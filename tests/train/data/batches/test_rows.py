import itertools
import json

import numpy as np
import pytest

from model.errors import UserError
from tests.train.data.conftest import PACKINGS, change, epoch
from train.data import (
    Batches,
    BestFit,
    Bytes,
    Data,
    EvaluationBatches,
    SeparateText,
    open_dataset,
    prepare,
)
from train.data.tokenizers.interface import BytesTokenizer


@pytest.mark.parametrize("packing", PACKINGS)
def test_documents_apart(dataset, data, packing):
    """Segment ids count from 1, positions restart, an end begins a document and never stands inside one."""
    end = dataset.end_of_document
    for row in itertools.islice(epoch(Batches(dataset, change(data, packing=packing))), 60):
        used = int((row["segment_ids"] > 0).sum())
        segment_ids = row["segment_ids"][:used]
        starts = np.flatnonzero(np.diff(segment_ids, prepend=0))
        assert segment_ids[starts].tolist() == list(range(1, len(starts) + 1))
        assert (row["segment_ids"][used:] == 0).all()
        inside = np.ones(used, bool)
        inside[starts] = False
        assert not (row["tokens"][:used][inside] == end).any()
        assert (row["tokens"][starts[1:]] == end).all() or isinstance(packing, BestFit)
        for a, b in itertools.pairwise([*starts.tolist(), used]):
            assert row["positions"][a:b].tolist() == list(range(b - a))
            assert row["tokens"][a + 1 : b].tolist() == row["targets"][a : b - 1].tolist()


def test_documents_that_see_each_other(dataset, data):
    batch = Batches(dataset, change(data, cross_document_attention=True)).rows(0)
    assert (batch["segment_ids"] == 1).all()
    assert (batch["positions"] == np.arange(32)).all()


def test_documents_name_what_is_in_a_batch(dataset, data, corpus):
    batches = Batches(dataset, data)
    batch = batches.rows(11)
    learnt = np.zeros(batch["targets"].shape, int)
    for s in batches.documents(11, characters=500):
        content = (corpus / s.name).read_bytes()
        assert len(content) == s.document_length
        row = batch["targets"][s.row, s.column : s.column + s.stop - s.start]
        assert bytes(row.tolist()) == content[s.start : s.stop] == s.text.encode()
        learnt[s.row, s.column : s.column + s.length] += 1
    assert np.array_equal(learnt, batch["weights"].astype(int))


def test_documents_without_tokens_are_passed_over(tmp_path, monkeypatch):
    """Where documents follow one another without a begin token, the next token is in the next non-empty document."""
    monkeypatch.setattr(BytesTokenizer, "encode", lambda self, text: np.array([ord(c) for c in text if c != "-"], "i4"))
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "ab"}\n{"text": "-"}\n{"text": "cd"}\n{"text": "--"}\n')
    data = Data(
        path=str(path),
        tokenizer=Bytes(end_of_document=False),
        validation=SeparateText(path=str(path)),
        batch_size=1,
        sequence_length=8,
        cross_document_attention=True,
    )
    evaluation = EvaluationBatches(open_dataset(prepare(data, tmp_path / "d", workers=1)), data)
    (batch,) = evaluation
    assert batch["targets"][batch["weights"] > 0].tolist() == [ord(c) for c in "bcd"]
    assert (evaluation.coverage.tokens, evaluation.coverage.end_tokens) == (3, 0)


def test_padding_is_no_target(tmp_path):
    """Documents of 20 characters and an end, of which a row of 32 has room for one: 40 rows, 1,280 places."""
    (tmp_path / "short.jsonl").write_text("".join(json.dumps({"text": f"{k:020}"}) + "\n" for k in range(60)))
    data = Data(
        path=str(tmp_path / "short.jsonl"), tokenizer=Bytes(), packing=BestFit(), validation=None,
        batch_size=4, sequence_length=32,
    )  # fmt: skip
    batches = Batches(open_dataset(prepare(data, tmp_path / "d")), data)
    assert sum(batches.num_targets(n) for n in range(10)) == 840
    assert sum(int(batches.rows(n)["weights"].sum()) for n in range(10)) == 840


def test_only_the_fields_that_are_asked_for_are_made(dataset, data, monkeypatch):
    whole = Batches(dataset, data).rows(3)
    for fields in (("tokens", "targets", "weights"), ("positions",), ("weights", "segment_ids")):
        batches = Batches(dataset, data, fields=fields)
        assert list(batches.rows(3)) == list(fields)
        for name, array in batches.rows(3).items():
            np.testing.assert_array_equal(array, whole[name])
    with pytest.raises(UserError, match="no field of a batch is called 'token'; did you mean 'tokens'"):
        Batches(dataset, data, fields=("token",))


@pytest.mark.parametrize("packing", PACKINGS)
def test_text_is_all_but_padding_and_the_marks_that_begin_documents(dataset, data, packing):
    begin, seen = dataset.tokenizer.begin_of_document, 0
    for row in epoch(Batches(dataset, change(data, packing=packing))):
        is_mark = (row["tokens"] == begin) & (row["positions"] == 0) & (row["segment_ids"] > 0)
        np.testing.assert_array_equal(row["text"], (row["segment_ids"] > 0) & ~is_mark)
        seen += is_mark.sum()
    assert seen >= dataset.split("train")[0].num_documents
