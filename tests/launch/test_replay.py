"""The command that does a step again: its tables, its JSON, its exit status."""

import json
import math
import shutil

import pytest

from train.hooks import spikes as notes
from train.lab import replay


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """The tiny run, with the note of a spike at step 12."""
    copy = tmp_path_factory.mktemp("replay") / "run"
    shutil.copytree(tiny_run, copy)
    (copy / notes.FOLDER).mkdir()
    heights = {"loss": {"median": 2.0, "deviation": 0.5, "deviations": 14.0}}
    note = {"format": 1, "step": 12, "batch": 11, "scalars": {"loss": 9.0}, "heights": heights, "documents": []}
    (copy / notes.FOLDER / "12.json").write_text(json.dumps(note))
    return copy


@pytest.fixture
def replayed(monkeypatch):
    """The arguments of the replay, which is not made; its result is the recorded one."""
    calls = []

    def made(run, step, **options):
        calls.append((step, options["worst_rows"]))
        return replay.Replay(
            run=str(run),
            step=step,
            restored=0,
            loss=math.nan,
            grad_norm=1.5,
            recorded={"loss": math.nan},
            compared=step,
            first_difference=3 if step == 6 else None,
            documents=[replay.DocumentLoss(0, (0, 4), "a\x1bb", 4, 2.0, "text")],
            rows=[replay.RowLoss(0, 2.0, ("a", "\n"), (1.0, 3.0))],
            layers=[replay.LayerGradient("layer 0", 1.5, "blocks.mixer.query", 1.0)],
            dropout=True,
        )

    monkeypatch.setattr(replay, "replay", made)
    return calls


def test_a_step_that_is_the_recorded_one(run, replayed, command):
    status, said = command("launch.replay", f"--run={run}", "--step=5", "--rows=1")
    assert status == 0
    assert "from the initial state\n  loss nan, gradient norm 1.5\n" in said
    assert "the recorded values, to the bit; the 4 recorded steps before it are the same too" in said
    assert "without dropout: 1 parts" in said
    assert "\x1b" not in said
    status, said = command("launch.replay", f"--run={run}", "--step=5", "--json")
    found = json.loads(said)
    assert (status, found["equal"], found["loss"], found["batch"]) == (0, True, "NaN", 4)
    assert replayed == [(5, 1), (5, 2)]


def test_a_step_that_is_not_the_recorded_one_is_another_exit_status(run, replayed, command):
    status, said = command("launch.replay", f"--run={run}", "--step=6")
    assert status == 3
    assert "NOT the recorded run: they part at step 3; recorded were loss nan. " in said


def test_the_spikes_are_listed(run, tiny_run, command):
    assert command("launch.replay", f"--run={run}") == (
        0,
        "step        12  loss 9, 14 deviations above its median 2\n",
    )
    assert json.loads(command("launch.replay", f"--run={run}", "--json")[1])["spikes"][0]["step"] == 12
    assert command("launch.replay", f"--run={tiny_run}")[1].startswith("no spikes were noted; --step=N does any step")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run is missing"),
        (["--run=RUN", "12"], "unexpected argument '12'"),
        (["--run=RUN", "--step=0"], "--step=0: this run has the steps 1 to 20"),
        (["--run=nowhere", "--step=1"], "nowhere is no run folder"),
        (["--run=nowhere"], "nowhere is no run folder"),
        (["--run=RUN", "--step=1", "--mesh=data=3,fsdp=3"], "mesh"),
    ],
)
def test_mistakes_are_named(arguments, message, run, command):
    status, said = command("launch.replay", *[argument.replace("RUN", str(run)) for argument in arguments])
    assert status == 2
    assert said.startswith("error: ")
    assert message in said
