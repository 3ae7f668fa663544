import itertools
import os

import numpy as np
import pytest

from model.errors import UserError
from tests.train.data.conftest import PACKINGS, change, epoch
from train.data import (
    Batches,
    BestFit,
    Bytes,
    Concatenate,
    Data,
    EvaluationBatches,
    SeparateText,
    Source,
    open_dataset,
    prepare,
)
from train.data.batches.coverage import Coverage


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def texts_of(dataset, split="train"):
    part = dataset.split(split)[0]
    return {part.document_name(d): part.tokens(d).tolist() for d in range(part.num_documents)}


def test_shapes_and_types(dataset, data):
    batch = Batches(dataset, data).rows(3)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "tokens": ((8, 32), "int32"),
        "targets": ((8, 32), "int32"),
        "segment_ids": ((8, 32), "int32"),
        "positions": ((8, 32), "int32"),
        "weights": ((8, 32), "float32"),
        "text": ((8, 32), "int8"),
    }


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("cross_document", [False, True])
def test_targets_are_counted_without_reading_them(dataset, endless, data, packing, cross_document):
    for of, option in ((dataset, data), endless):
        batches = Batches(of, change(option, packing=packing, cross_document_attention=cross_document))
        counts = [int(batches.rows(n)["weights"].sum()) for n in range(200)]
        assert [batches.num_targets(n) for n in range(200)] == counts
        assert min(counts) < 8 * 32  # some are padded


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("cross_document", [False, True])
def test_every_token_is_a_target_once_and_follows_its_input(dataset, data, packing, cross_document):
    """One epoch, taken apart by segment ids, is every document between two ends, each pair once."""
    end = dataset.end_of_document
    batches = Batches(dataset, change(data, packing=packing, cross_document_attention=cross_document))
    pairs = []
    for row in epoch(batches):
        used = row["weights"] > 0
        assert np.array_equal(used, row["segment_ids"] > 0)
        pairs += zip(row["tokens"][used].tolist(), row["targets"][used].tolist(), strict=True)
    expected = []
    for tokens in texts_of(dataset).values():
        expected += itertools.pairwise([end, *tokens, end])
    assert sorted(pairs) == sorted(expected)


def test_without_an_end(endless):
    """A stream of characters: nothing is inserted; no target crosses documents that do not see each other."""
    dataset, data = endless
    part = dataset.split("train")[0]
    stream = np.concatenate([part.tokens(d) for d in range(part.num_documents)])
    ends = np.cumsum([part.length(d) for d in range(part.num_documents)]) - 1
    for cross_document in (True, False):
        option = change(
            data, packing=Concatenate(order="files", random_offset=False), cross_document_attention=cross_document
        )
        rows = list(EvaluationBatches(dataset, option, split="train"))
        tokens, targets, mask = (
            np.concatenate([b[k].reshape(-1) for b in rows]) for k in ("tokens", "targets", "weights")
        )
        assert tokens[: len(stream)].tolist() == stream.tolist()
        assert (
            targets[: len(stream) - 1][mask[: len(stream) - 1] > 0].tolist()
            == (stream[1:] if cross_document else np.delete(stream[1:], ends[:-1])).tolist()
        )
        unlearnt = np.flatnonzero(mask[: len(stream)] == 0).tolist()
        assert unlearnt == ([len(stream) - 1] if cross_document else ends.tolist())
        assert not mask[len(stream) :].any()


def test_nanogpt_split(tmp_path):
    """The first 90% of the characters are trained on, the vocabulary is the file's, and nothing is added."""
    from train.data import Characters, Tail

    text = "".join(chr(97 + k % 23) for k in range(1005))
    (tmp_path / "t.txt").write_text(text)
    data = Data(path=str(tmp_path / "t.txt"), tokenizer=Characters(), validation=Tail(fraction=0.1))
    dataset = open_dataset(prepare(data, tmp_path / "d"))
    assert (dataset.vocab_size, dataset.end_of_document) == (23, None)
    assert (dataset.count("train", "tokens"), dataset.count("validation", "tokens")) == (int(0.9 * 1005), 101)
    assert dataset.tokenizer.decode(dataset.split("validation")[0].tokens(0)) == text[904:]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("hosts", [2, 8])
def test_hosts_read_the_same_batch(dataset, data, packing, hosts):
    option = change(data, packing=packing)
    whole = Batches(dataset, option)
    share = data.batch_size // hosts
    for n in (0, 7, 1234):
        parts = [
            Batches(open_dataset(dataset.folder), option).rows(n, range(h * share, (h + 1) * share))
            for h in range(hosts)
        ]
        joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        assert equal(joined, whole.rows(n))


def mixture(corpus, tmp_path, batch_size):
    """A mixture of three parts of the corpus and one part of another text."""
    (tmp_path / "b.txt").write_text("b" * 3000)
    return Data(
        path=(Source(path=str(corpus), weight=3), Source(path=str(tmp_path / "b.txt"), weight=1)),
        tokenizer=Bytes(),
        validation=SeparateText(path=str(tmp_path / "b.txt")),
        batch_size=batch_size,
        sequence_length=16,
    )


@pytest.mark.parametrize("hosts", [2, 8])
def test_hosts_read_the_same_batch_of_a_mixture(corpus, tmp_path, hosts):
    data = mixture(corpus, tmp_path, batch_size=8)
    folder = prepare(data, tmp_path / "d")
    for n in (0, 7, 1234):
        readers = [Batches(open_dataset(folder), data) for _ in range(hosts)]
        parts = [reader.rows(n, range(h, 8, hosts)) for h, reader in enumerate(readers)]  # every n-th row
        whole = Batches(open_dataset(folder), data).rows(n)
        for h, part in enumerate(parts):
            assert equal(part, {name: values[h::hosts] for name, values in whole.items()})


def test_a_host_reads_only_the_records_of_its_rows(dataset, data, monkeypatch):
    opened = open_dataset(dataset.folder)
    batches = Batches(opened, data)
    reader = opened.split("train")[0].reader
    asked = []
    monkeypatch.setattr(
        reader, "_read_bytes", lambda numbers, read=reader._read_bytes: asked.extend(numbers) or read(numbers)
    )
    batches.rows(5, [])
    assert asked == []
    batches.rows(5, [2])
    assert 1 <= len(asked) <= 4
    batches.rows(5)
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_iterator_begins_anywhere(dataset, data, prefetch):
    batches = Batches(dataset, change(data, prefetch=prefetch))
    iterator = batches.iterator(start=17, rows=[1, 3])
    for n in range(17, 23):
        assert equal(next(iterator), batches.rows(n, [1, 3]))
    iterator.close()
    assert len(list(batches.iterator(start=2, stop=5))) == 3


def test_epochs_are_reshuffled_and_cut_elsewhere(dataset, data):
    batches = Batches(dataset, change(data, batch_size=1))
    (rows,) = batches.rows_per_epoch
    epochs = [[batches._locate(n, 0) for n in range(e * rows, (e + 1) * rows)] for e in range(2)]
    assert [sorted(r for _, r, _ in e) for e in epochs] == [list(range(rows))] * 2
    assert [r for _, r, _ in epochs[0]] != [r for _, r, _ in epochs[1]]
    offsets = [{offset for _, _, offset in e} for e in epochs]
    assert all(len(o) == 1 for o in offsets)
    assert offsets[0] != offsets[1]
    still = Batches(dataset, change(data, batch_size=1, packing=Concatenate(random_offset=False)))
    assert {still._locate(n, 0)[2] for n in range(2 * rows)} == {0}


def test_seed_changes_the_order(dataset, data):
    a, b = (Batches(dataset, change(data, seed=seed)).rows(0) for seed in (0, 1))
    assert not equal(a, b)
    assert equal(a, Batches(dataset, data).rows(0))


def test_order_is_this_one(dataset, data):
    """The order of training is part of the meaning of a seed: a library must not change it unnoticed."""
    batches = Batches(dataset, change(data, batch_size=1, packing=Concatenate(order="files")))
    assert batches.rows_per_epoch == [1102]
    places = [batches._locate(n, 0)[1:] for n in (0, 1, 2, 1102, 1103)]
    assert places == [(242, 9), (289, 9), (397, 9), (619, 0), (893, 0)]


def test_evaluation_counts_every_target_once(dataset, data):
    evaluation = EvaluationBatches(dataset, change(data, packing=BestFit()), batch_size=5)
    batches = list(evaluation)
    assert len(batches) == evaluation.num_batches == len(evaluation)
    targets = np.concatenate([b["targets"][b["weights"] > 0] for b in batches])
    expected = [t for tokens in texts_of(dataset, "validation").values() for t in [*tokens, dataset.end_of_document]]
    assert targets.tolist() == expected
    ends = targets.tolist().count(dataset.end_of_document)
    assert evaluation.coverage == Coverage(tokens=len(targets) - ends, end_tokens=ends, bytes=len(targets) - ends)
    assert equal(evaluation.batch(1), batches[1])


def test_evaluation_on_hosts_and_with_a_limit(dataset, data):
    whole = EvaluationBatches(dataset, data)
    halves = [EvaluationBatches(dataset, data, rows=rows) for rows in (range(4), range(4, 8))]
    for n, batch in enumerate(whole):
        parts = [half.batch(n) for half in halves]
        assert equal({k: np.concatenate([p[k] for p in parts]) for k in batch}, batch)
    short = EvaluationBatches(dataset, data, limit=2)
    assert short.num_batches == 2 < whole.num_batches
    assert 0 < short.coverage.tokens < whole.coverage.tokens
    assert [equal(a, b) for a, b in zip(short, whole, strict=False)] == [True, True]


def test_mixture_follows_its_weights(corpus, tmp_path):
    data = mixture(corpus, tmp_path, batch_size=4)
    dataset = open_dataset(prepare(data, tmp_path / "d"))
    batches = Batches(dataset, data)
    from_b = np.array([(batches.rows(n)["targets"][:, 3] == ord("b")).sum() for n in range(100)])
    assert from_b.sum() == 100  # a quarter of the rows, in every stretch of them
    assert from_b[:10].sum() == 10
    assert {s.source for s in batches.documents(0)} == {0, 1}
    # The folder alone, without the sources that made it, has the same weights.
    alone = Batches(dataset, change(data, path=str(tmp_path / "d")))
    assert equal(alone.rows(9), batches.rows(9))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_truncated_shard_is_told_of_before_the_first_batch(split, data, tmp_path):
    """Not at the first evaluation, after the steps before it."""
    folder = prepare(data, tmp_path / "d")
    os.truncate(next(folder.glob(f"{split}-*.array_record")), 100)
    opened = open_dataset(folder)
    with pytest.raises(UserError, match=rf"{split}-.*array_record is truncated: 100 bytes, expected \d+; delete"):
        Batches(opened, data) if split == "train" else EvaluationBatches(opened, data)


@pytest.mark.parametrize(("cross_document", "texts"), [(False, ["a", "b", "c"]), (True, ["a"])])
def test_text_with_nothing_to_predict_is_refused(cross_document, texts, tmp_path):
    """Without a begin token nothing comes before a first token: a loss over no target would read 0."""
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    data = Data(
        path=str(path),
        tokenizer=Bytes(end_of_document=False),
        validation=SeparateText(path=str(path)),
        cross_document_attention=cross_document,
    )
    dataset = open_dataset(prepare(data, tmp_path / "d"))
    message = rf"the split .* has no token to predict: {len(texts)} document.*, {len(texts)} token.*such as Bytes\(\)"
    for batches in (Batches, EvaluationBatches):
        with pytest.raises(UserError, match=message):
            batches(dataset, data)


def test_rows_outside_the_batch_and_unknown_split(dataset, data):
    with pytest.raises(ValueError, match="row 8 of a batch of 8"):
        Batches(dataset, data).rows(0, [8])
    with pytest.raises(UserError, match="no split 'test'; it has train, validation"):
        Batches(dataset, data, split="test")
