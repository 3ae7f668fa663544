"""Runs that train jointly equal the same runs alone, through failures, stops and different checkpoints.

The fixture trains two runs alone and then jointly with a third, which diverges. A signal during the evaluation of step 2
stops the joint ones after step 3; one of the two loses that checkpoint, so that they continue from steps 3 and 2.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest

from model.errors import UserError
from model.parameters.names import flatten
from train.joint import training
from train.joint.training import Member, train_jointly
from train.loop import Outcome, train
from train.process.stop import Stop
from train.run.loading import load_params
from train.run.metrics import read_metrics

NAMES = ("a", "b")
OPTIMIZERS = ["AdamW(weight_decay=0.1)", pytest.param("Muon(weight_decay=0.1)", marks=pytest.mark.sweep)]


def quiet(*words):
    pass


@pytest.fixture(scope="module", params=OPTIMIZERS, ids=["adamw", "muon"])
def trained(request, tiny_experiment, tmp_path_factory):
    """The folder with the runs alone-NAME and joint-NAME, and the ends of the three joint sessions."""
    patch = pytest.MonkeyPatch()

    def member(name, **changes):
        experiment = tiny_experiment(
            model__num_layers=1,
            training__num_steps=6,
            training__guard__max_consecutive=2,
            optimizer=request.param,
            evaluation__every=2,
            evaluation__max_batches=2,
            checkpoints__every=2,
            checkpoints__keep_last=3,
            samples__prompts=(),
            **{"schedule__warmup_steps": 1} | changes,
        )
        return Member(name, experiment, folder / f"joint-{name}")

    folder = tmp_path_factory.mktemp("joint")
    members = [
        member("a", training__seed=1, data__seed=1),
        member("b", training__seed=2, data__seed=2, schedule__peak=2e-2, schedule__final=0.0, training__clip_norm=0.5),
        member("c", training__seed=3, data__seed=3, schedule__peak=1e30),
    ]
    for one in members[:2]:
        train(one.experiment, folder / f"alone-{one.name}", say=quiet)
    stop = Stop()

    def ask_to_stop(member, line):
        stop.requested = "SIGTERM" if line.startswith("step 2: validation loss") else stop.requested

    ends = [train_jointly(members, say=ask_to_stop, stop=stop)]
    shutil.rmtree(folder / "joint-b" / "checkpoints" / "3")
    ends.append(train_jointly(members[:2], say=quiet))
    patch.setattr(training, "_Joint", None)  # nothing is left to train
    ends.append(train_jointly(members[:2], say=quiet))
    patch.undo()
    return folder, ends


def lines_of(run):
    """The numbers of metrics.jsonl by what they are, and their names."""
    return {
        (line["kind"], line["step"], name): value
        for line in read_metrics(run)
        for name, value in line.items()
        if isinstance(value, int | float)
    }


@pytest.mark.parametrize("name", NAMES)
def test_all_numbers_are_those_of_the_run_alone(trained, name):
    folder, _ = trained
    alone, joint = lines_of(folder / f"alone-{name}"), lines_of(folder / f"joint-{name}")
    assert list(alone) == list(joint)
    assert sum(kind == "eval" for kind, _, _ in alone) > 3
    np.testing.assert_allclose(list(joint.values()), list(alone.values()), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_final_parameters_are_those_of_the_run_alone(trained, name, request):
    """To rounding, which Muon's orthogonalisation multiplies by up to 3.4445^5 where singular values are small."""
    folder, _ = trained
    bound = 1e-5 if "muon" in request.node.callspec.id else 2e-6
    alone, joint = (flatten(load_params(folder / f"{kind}-{name}").params) for kind in ("alone", "joint"))
    assert list(alone) == list(joint)
    for path, x in alone.items():
        np.testing.assert_allclose(joint[path], x, rtol=1e-5, atol=bound * float(abs(x).max()), err_msg=path)


def test_members_differ(trained):
    folder, _ = trained
    one, other = (lines_of(folder / f"joint-{name}") for name in NAMES)
    assert one["train", 1, "loss"] != other["train", 1, "loss"]
    assert one["train", 3, "learning_rate"] != other["train", 3, "learning_rate"]


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_that_of_the_run_alone(trained, name):
    folder, _ = trained
    alone, joint = folder / f"alone-{name}", folder / f"joint-{name}"
    assert {path.name for path in joint.iterdir()} == {path.name for path in alone.iterdir()}
    for path in ("status.json", "config.json", "parameters.json"):
        read = [json.loads((run / path).read_text()) for run in (alone, joint)]
        assert read[0] == read[1], path
    steps = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (alone, joint)]
    assert steps[0][-1] == steps[1][-1] == "6"


def test_one_that_diverges_fails_alone_and_a_stop_ends_the_others(trained):
    folder, ((*others, diverged), *_) = trained
    assert isinstance(diverged.error, UserError)
    assert "were all skipped: loss or gradient norm not finite" in str(diverged.error)
    assert json.loads((folder / "joint-c" / "status.json").read_text())["state"] == "failed"
    outcome = Outcome("interrupted", 3, "SIGTERM; the same command continues from step 3")
    assert [end.outcome for end in others] == [outcome] * 2


def test_all_continue_from_their_own_checkpoints(trained):
    folder, (_, ends, _) = trained
    assert [(end.error, end.outcome) for end in ends] == [(None, Outcome("finished", 6))] * 2
    for name, start in (("a", 3), ("b", 2)):
        lines = map(json.loads, (folder / f"joint-{name}" / "throughput.jsonl").read_text().splitlines())
        steps = [(line["session"], line["step"]) for line in lines]
        assert steps == [(1, step) for step in range(1, start + 1)] + [(2, step) for step in range(start + 1, 7)]


def test_finished_ones_are_left_alone(trained):
    _, (*_, ends) = trained
    assert [end.outcome for end in ends] == [Outcome("finished", 6)] * 2


def test_members_that_cannot_train_jointly_are_refused(tiny_experiment):
    members = [
        Member(str(width), tiny_experiment(model__width=width), pathlib.Path("nowhere", str(width)))
        for width in (32, 64)
    ]
    with pytest.raises(UserError, match=r"model\.width: 32 -> 64"):
        train_jointly(members)


def test_states_that_do_not_fit_are_refused(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("train.run.parameter_table.host_memory", lambda: 3 << 20)  # a state takes 1.5 MB on 8 devices
    members = [Member(str(seed), tiny_experiment(training__seed=seed), tmp_path / str(seed)) for seed in range(8)]
    with pytest.raises(
        UserError, match="8 runs in one program: the parameters and the optimizer's state take.*--joint"
    ):
        train_jointly(members)
    assert not list(tmp_path.iterdir())
