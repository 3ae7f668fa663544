"""A batch that grows: sizes and rows against a loop, no row lost or read twice, and the same step as a batch of that size."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from train.data.batches.pipeline import Batches
from train.data.prepare.prepare import prepare
from train.data.ramp import Ramp
from train.experiment import num_micro_batches
from train.loop import train
from train.run.checks import check_mesh
from train.run.metrics import read_metrics
from train.state import StateConfig, abstract_state
from train.step import train_step


@pytest.mark.parametrize(("start", "every", "largest"), [(1, 1, 16), (2, 3, 8), (4, 5, 8), (3, 2, 24)])
def test_sizes_and_rows_as_a_loop_counts_them(start, every, largest):
    ramp = Ramp(start=start, double_every=every)
    assert list(ramp.problems_with(largest)) == []
    size, rows, seen = start, 0, []
    for n in range(40):
        if n and n % every == 0:
            size = min(2 * size, largest)
        assert (ramp.size(n, largest), ramp.rows_before(n, largest)) == (size, rows)
        rows += size
        seen.append(size)
    assert ramp.sizes(largest) == sorted(set(seen))


@pytest.fixture(scope="module")
def data(tiny_experiment, tmp_path_factory):
    """The data of a tiny experiment as a dataset folder, with batches of 2, 4 and then 8 rows."""
    given = tiny_experiment().data
    folder = prepare(given, tmp_path_factory.mktemp("ramp") / "data")
    return dataclasses.replace(given, path=str(folder), ramp=Ramp(start=2, double_every=3))


def test_the_rows_are_those_of_the_data_in_their_order(data):
    """Batches of one row name the rows; each batch of the ramp has the next ones, whoever asks and in any order."""
    grown, single = Batches(data.path, data), Batches(data.path, dataclasses.replace(data, ramp=None, batch_size=1))
    row = 0
    for n, size in enumerate([2, 2, 2, 4, 4, 4, 8, 8, 8, 8]):
        batch = grown.rows(n)
        assert batch["tokens"].shape == (size, data.sequence_length)
        for own in batch["tokens"]:
            np.testing.assert_array_equal(own, single.rows(row)["tokens"][0])
            row += 1
        assert grown.num_targets(n) == int(batch["weights"].sum())
        assert {span.row for span in grown.documents(n)} == set(range(size))
    with pytest.raises(ValueError, match="row 2 of a batch of 2"):
        grown.rows(0, [2])


def test_reading_ahead_from_any_batch_and_for_several_hosts(data):
    grown = Batches(data.path, data)
    for half in (0, 1):
        asked = lambda size, half=half: range(half * size // 2, (half + 1) * size // 2)  # noqa: E731
        for n, batch in enumerate(grown.iterator(2, asked, stop=8), 2):
            expected = np.split(grown.rows(n)["tokens"], 2)[half]
            np.testing.assert_array_equal(batch["tokens"], expected)


def test_micro_batches_keep_their_size(tiny_experiment, data):
    """As many as needed, none larger than those of a whole batch."""
    experiment = tiny_experiment(training__gradient_accumulation=4, data__ramp=Ramp(start=1, double_every=2))
    assert [num_micro_batches(experiment, rows) for rows in (1, 2, 4, 8)] == [1, 1, 2, 4]
    assert [data.grows_at(n) for n in range(8)] == [False, False, False, True, False, False, True, False]
    state = abstract_state(StateConfig.of(experiment))

    def shapes_of(rows):
        batch = {
            name: jax.ShapeDtypeStruct((rows, 16), np.int32)
            for name in ("tokens", "targets", "segment_ids", "positions")
        }
        batch["weights"] = jax.ShapeDtypeStruct((rows, 16), np.float32)
        return str(jax.make_jaxpr(functools.partial(train_step, experiment, ONE_DEVICE))(state, batch))

    # The parameters' gradients of two rows at a time: four rows in a loop of two, two rows in none.
    assert "length=2" in shapes_of(4)
    assert "i32[2,2,16]" in shapes_of(4)
    assert "i32[1,2,16]" not in shapes_of(2)


def test_mistakes(tiny_experiment):
    with pytest.raises(UserError, match=r"data\.ramp\.start: 3 does not double to batch_size=8; use 4, 2, 1"):
        tiny_experiment(data__ramp=Ramp(start=3, double_every=2))
    with pytest.raises(UserError, match=r"data\.ramp\.start: 8 does not double to batch_size=8"):
        tiny_experiment(data__ramp=Ramp(start=8, double_every=2))
    with pytest.raises(UserError, match=r"data\.ramp\.double_every: must be at least 1, got 0"):
        tiny_experiment(data__ramp=Ramp(start=2, double_every=0))
    with pytest.raises(UserError, match=r"data\.ramp\.start: 4 sequences cannot be split 8 ways"):  # as many devices
        check_mesh(tiny_experiment(data__ramp=Ramp(start=4, double_every=2)))
    with pytest.raises(UserError, match="use an even batch_size"):
        tiny_experiment(data__batch_size=7, data__ramp=Ramp(start=7, double_every=2))


@pytest.mark.sweep
def test_a_run_grows_its_batches_and_continues_exactly(tiny_experiment, tmp_path):
    """Sizes 8, 16 and 32; stopped in the middle of the ramp, at a doubling, and not at all: the same bytes."""
    experiment = tiny_experiment(
        data__batch_size=32,
        data__ramp=Ramp(start=8, double_every=3),
        training__num_steps=9,
        training__gradient_accumulation=2,
        samples__prompts=(),
        checkpoints__every=2,
        evaluation__every=9,
        statistics="Statistics(every=4, noise_scale=True)",
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(experiment, whole, say=lambda line: None)
    for stop in (2, 3, 8, None):
        train(experiment, parts, hard_stop=stop, say=lambda line: None)
    for name in ("metrics.jsonl", "statistics.jsonl"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    lines = [line for line in read_metrics(whole) if line["kind"] == "train"]
    batches = Batches(str(whole / "data"), experiment.data)
    assert [line["tokens"] for line in lines] == np.cumsum([batches.num_targets(n) for n in range(9)]).tolist()
    rows = np.repeat([8, 16, 32], 3)
    counted = np.array([batches.num_targets(n) for n in range(9)])
    assert [line["padding"] for line in lines] == pytest.approx(1 - counted / (16 * rows))
    noise = [line for line in map(json.loads, (whole / "statistics.jsonl").open()) if line["role"] == "noise_scale"]
    assert [line["tokens"] for line in noise] == [counted[3], counted[7], counted[8]]
