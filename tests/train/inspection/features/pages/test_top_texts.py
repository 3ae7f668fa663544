"""The best texts of units, against sorting everything."""

import numpy as np

from train.inspection.features.pages.top_texts import AFTER, BEFORE, EDGES, collect


def batches_of(rows=6, length=60, count=3, seed=0):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        segments = np.ones((rows, length), np.int32)
        segments[:, 40:] = 2
        segments[:, 57:] = 0
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy()
        positions[:, 40:] -= 40
        yield {
            "tokens": draw.integers(0, 99, (rows, length), np.int32),
            "segment_ids": segments,
            "positions": positions,
            "x": draw.normal(size=(rows, length, 2)).astype(np.float32),
        }


def test_examples_are_the_best_rows_of_all_batches():
    found = collect(batches_of(), lambda batch: batch["x"], [7, 3], most=4, skip=1)
    real = [(b["segment_ids"] > 0) & (b["positions"] >= 1) for b in batches_of()]
    assert found.tokens == sum(int(r.sum()) for r in real)
    for place, unit in enumerate(found.units):
        assert unit.number == [7, 3][place]
        rows = []
        for batch, kept in zip(batches_of(), real):
            x = np.where(kept, batch["x"][..., place], -np.inf)
            rows += [(x[row].max(), batch, row, int(x[row].argmax())) for row in range(len(x))]
            assert not np.isfinite(x[0, 59])
        rows.sort(key=lambda each: -each[0])
        assert [example.largest for example in unit.examples] == [np.float32(row[0]) for row in rows[:4]]
        for example, (_, batch, row, peak) in zip(unit.examples, rows):
            own = [t for t in range(peak - BEFORE, peak + AFTER + 1) if 0 <= t < 57 and (t >= 40) == (peak >= 40)]
            np.testing.assert_array_equal(example.tokens, batch["tokens"][row, own])
            assert own[example.peak] == peak
        assert EDGES[40] == 1
        every = np.concatenate([b["x"][..., place][kept] for b, kept in zip(batches_of(), real)])
        assert unit.fired == (every > 0).sum() == unit.counts.sum()
        assert unit.counts[40:].sum() == (every[every > 0] >= 1.0).sum()


def test_a_unit_that_never_fires_has_no_text():
    found = collect(batches_of(), lambda batch: -np.abs(batch["x"]), [0, 1], most=4)
    assert [(unit.examples, unit.fired) for unit in found.units] == [([], 0), ([], 0)]
