"""Notes of spikes: their content, their number, and that an interruption changes none of them."""

import json
import types

import pytest

from model.errors import UserError
from train.data.batches.pipeline import Batches
from train.data.shards.dataset import dataset_of_run
from train.hooks.spikes import MAX_SPANS, SpikesHook, describe_note, noted_steps, read_note
from train.optimizers.spikes import Spikes

OPTION = Spikes(deviations=5.0, window=3, keep=2, states=1)
LOSSES = [4.0, 3.9, 3.8, 9.0, 3.7, 3.6, 3.5, 3.4, float("nan"), 3.3, 3.2, 3.1, 3.0, 2.9, 8.0]  # spikes: 4, 9, 15


@pytest.fixture
def session(tiny_run, tiny_experiment, tmp_path):
    said = []
    return types.SimpleNamespace(experiment=tiny_experiment(), folder=tmp_path, say=said.append, said=said)


@pytest.fixture
def hook(session, tiny_run):
    """A function that makes the hook of a session that begins after a step, with the list of steps to replay."""

    def make(start=0, batches=None):
        replayed = []
        batches = batches or Batches(dataset_of_run(tiny_run), session.experiment.data)
        hook = SpikesHook(session, OPTION, batches, replayed)
        if start:
            lines = [
                {"kind": "train", "step": n + 1, "loss": x, "grad_norm": 1.0} for n, x in enumerate(LOSSES[:start])
            ]
            hook.resumed(start, [{"kind": "eval", "step": 1, "loss": 99.0}, *lines])
        hook.begin(start)
        return hook, replayed

    return make


def run_steps(hook, start=0, stop=len(LOSSES)):
    for step in range(start + 1, stop + 1):
        hook.fetched(step, {"loss": LOSSES[step - 1], "grad_norm": 1.0, "learning_rate": 0.5}, has_line=True)


def notes(session):
    return {step: (session.folder / "spikes" / f"{step}.json").read_bytes() for step in noted_steps(session.folder)}


def test_the_latest_are_described_and_the_latest_of_all_is_replayed(hook, session, tiny_run):
    spikes, replayed = hook()
    run_steps(spikes)
    assert noted_steps(session.folder) == [9, 15]
    assert replayed == [15]
    note = read_note(session.folder, 15)
    assert note["batch"] == 14
    assert note["scalars"] == {"loss": 8.0, "grad_norm": 1.0, "learning_rate": 0.5}
    assert note["heights"]["loss"]["median"] == 3.0
    assert describe_note(note).startswith("loss 8, ")
    assert describe_note(note).endswith("deviations above its median 3")
    expected = Batches(dataset_of_run(tiny_run), session.experiment.data).documents(14)
    assert [(d["row"], d["columns"], d["name"]) for d in note["documents"]] == [
        (span.row, [span.column, span.column + span.length], span.name) for span in expected
    ]
    assert read_note(session.folder, 9)["scalars"]["loss"] == "NaN"
    assert describe_note(read_note(session.folder, 9)) == "loss NaN"
    assert [line.partition(":")[0] for line in session.said] == ["step 4", "step 9", "step 15"]
    assert f"python -m launch.replay --run={session.folder} --step=15" in session.said[-1]


@pytest.mark.parametrize("start", [3, 8, 9, 12])
def test_a_run_that_is_interrupted_ends_with_the_same_notes(hook, session, start):
    run_steps(hook()[0])
    whole = notes(session)
    again, replayed = hook(start)
    assert max(noted_steps(session.folder), default=0) <= start
    run_steps(again, start)
    assert notes(session) == whole
    assert replayed == [15]


def test_the_spans_of_a_large_batch_are_bounded(hook, session):
    class Many:
        def documents(self, batch, rows, characters):
            span = types.SimpleNamespace(column=0, length=1, name="a", start=0, stop=1)
            return [span] * 100

    run_steps(hook(batches=Many())[0], stop=4)
    assert len(read_note(session.folder, 4)["documents"]) == MAX_SPANS


def test_a_damaged_note_is_named(session):
    (session.folder / "spikes").mkdir()
    for content, words in (("{", "is damaged"), ('{"step": 3}', "is damaged")):
        (session.folder / "spikes" / "3.json").write_text(content)
        with pytest.raises(UserError, match=words):
            read_note(session.folder, 3)
    good = {"format": 2, "step": 3, "batch": 2, "scalars": {}, "heights": {}, "documents": []}
    (session.folder / "spikes" / "3.json").write_text(json.dumps(good))
    with pytest.raises(UserError, match="format 2, expected 1"):
        read_note(session.folder, 3)
    assert read_note(session.folder, 4) is None
