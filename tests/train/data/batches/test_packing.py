import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.batches.packing import BestFitIndex, ConcatenateIndex, best_fit, concatenate, open_index
from train.data.config import BestFit, Concatenate

LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any)


def in_order(lengths, length):
    arrays = concatenate(np.array(lengths), Concatenate(order="files"), 0)
    return ConcatenateIndex(arrays["order"], arrays["ends"], length)


def test_concatenate_literally():
    index = in_order([3, 5, 2], 4)
    assert index.num_rows == 3
    assert index.spans(0, 0) == [(0, 0, 3, 1), (1, 0, 1, 2)]
    assert index.spans(1, 0) == [(1, 1, 5, 2)]
    assert index.spans(2, 0) == [(2, 0, 2, -1)]
    # Cut two later: the stream begins at its third pair, and its first two come last.
    assert index.spans(0, 2) == [(0, 2, 3, 1), (1, 0, 3, 2)]
    assert index.spans(1, 2) == [(1, 3, 5, 2), (2, 0, 2, -1)]
    assert index.spans(2, 2) == [(0, 0, 2, 1)]


@given(lengths=LENGTHS, length=st.integers(2, 20), offset=st.integers(0, 19), seed=st.integers(0, 3))
def test_concatenate_has_every_pair_once(lengths, length, offset, seed):
    arrays = concatenate(np.array(lengths), Concatenate(), seed)
    index = ConcatenateIndex(arrays["order"], arrays["ends"], length)
    rows = [index.spans(r, offset % length) for r in range(index.num_rows)]
    sizes = [sum(span.stop - span.start for span in row) for row in rows]
    assert all(size == length for size in sizes[:-1])
    seen = [(span.document, j) for row in rows for span in row for j in range(span.start, span.stop)]
    assert sorted(seen) == [(d, j) for d, n in enumerate(lengths) for j in range(n)]


def test_concatenate_order_is_seeded():
    orders = [concatenate(np.ones(50, int), Concatenate(), seed)["order"].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50))
    assert concatenate(np.ones(5, int), Concatenate(order="files"), 1)["order"].tolist() == [0, 1, 2, 3, 4]


def packed(lengths, length):
    arrays = best_fit(np.array(lengths), length)
    index = BestFitIndex(arrays["firsts"], arrays["documents"], arrays["starts"], arrays["stops"])
    return [index.spans(r, 0) for r in range(index.num_rows)]


def test_best_fit_literally():
    # 7 and 6 open rows; 4 fills the second and does not fit the first; 3 fills the first; 23 leaves 3, which 2 joins.
    found = [[(span.document, span.start, span.stop) for span in row] for row in packed([3, 6, 4, 7, 2, 23], 10)]
    assert found == [
        [(5, 0, 10)],
        [(5, 10, 20)],
        [(3, 0, 7), (0, 0, 3)],
        [(1, 0, 6), (2, 0, 4)],
        [(5, 20, 23), (4, 0, 2)],
    ]


@given(lengths=LENGTHS, length=st.integers(2, 20))
def test_best_fit_has_every_pair_once_and_never_overfills(lengths, length):
    rows = packed(lengths, length)
    assert all(0 < sum(span.stop - span.start for span in row) <= length for row in rows)
    seen = [(span.document, j) for row in rows for span in row for j in range(span.start, span.stop)]
    assert sorted(seen) == [(d, j) for d, n in enumerate(lengths) for j in range(n)]
    # A document that fits a row is never cut.
    assert all(
        span.start == 0 and span.stop == lengths[span.document]
        for row in rows
        for span in row
        if lengths[span.document] <= length
    )


def best_fit_one_by_one(lengths, length):
    """The spans of documents shorter than a row, one after the other: the longest first, into the fullest row."""
    rows, by_space = [], [[] for _ in range(length + 1)]
    for document in sorted(range(len(lengths)), key=lambda d: -(lengths[d] % length)):
        size = lengths[document] % length
        if not size:
            break
        space = next((space for space in range(size, length + 1) if by_space[space]), length)
        if by_space[space]:
            row = by_space[space].pop()
        else:
            row = len(rows)
            rows.append([])
        rows[row].append((document, lengths[document] - size, lengths[document]))
        if space > size:
            by_space[space - size].append(row)
    return rows


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=300).filter(any), length=st.integers(2, 24))
def test_all_spans_of_a_length_together_are_packed_as_one_by_one(lengths, length):
    found = [[(span.document, span.start, span.stop) for span in row] for row in packed(lengths, length)]
    assert found[sum(n // length for n in lengths) :] == best_fit_one_by_one(lengths, length)


def test_best_fit_is_fast_and_full():
    lengths = np.random.default_rng(0).lognormal(5, 1.2, 100_000).astype(int) + 1
    rows = best_fit(lengths, 2048)
    assert lengths.sum() / (2048 * (len(rows["firsts"]) - 1)) > 0.999


@pytest.mark.parametrize("option", [Concatenate(), Concatenate(order="files"), BestFit()])
def test_index_is_kept_on_disk(option, tmp_path, monkeypatch):
    tokens = np.arange(1, 40)

    def rows(index):
        return [index.spans(r, 0) for r in range(index.num_rows)]

    first = rows(open_index(tmp_path, "train", tokens, True, option, 16, 3))
    monkeypatch.setattr("train.data.batches.packing.concatenate", None)
    monkeypatch.setattr("train.data.batches.packing.best_fit", None)
    assert rows(open_index(tmp_path, "train", tokens, True, option, 16, 3)) == first
    with pytest.raises(TypeError):  # another text has another index
        open_index(tmp_path, "train", tokens + 1, True, option, 16, 3)
    assert not [p for p in (tmp_path / "index").iterdir() if p.name.startswith(".")]


def test_index_in_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "index").write_text("in the way")
    assert open_index(tmp_path, "train", np.arange(1, 9), True, BestFit(), 4, 0).num_rows > 0
