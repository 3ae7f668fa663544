"""A hook that a research idea adds: the loop is not edited, and what it writes is there once for each step."""

import json

import numpy as np

from train.hooks.interface import Hook, Moment
from train.loop import train
from train.run.metrics import read_metrics


def silent(line):
    pass


class Largest(Hook):
    """The largest parameter, every three steps; notes every call in a list."""

    def __init__(self, session, calls):
        self.every, self.session, self.calls, self.before = 3, session, calls, None

    def resumed(self, step, lines):
        self.before = (step, len(lines))

    def __call__(self, moment):
        size = max(float(np.abs(x).max()) for x in map(np.asarray, moment.state.params["embedding"].values()))
        self.session.metrics.train(moment.step, {"largest": size})
        self.calls.append((moment.step, self.before, moment.validation is not None))


def moment(step, last=False):
    return Moment(step=step, last=last, state=None, scalars={})


def test_a_hook_is_due_every_so_many_steps_and_at_the_last():
    hook = Hook()
    hook.every = 3
    assert [step for step in range(1, 8) if hook.due(moment(step, last=step == 7))] == [3, 6, 7]


def test_a_hook_of_ones_own_is_called_once_for_each_step_in_the_files(tiny_experiment, tmp_path):
    calls, hooks = [], [lambda session: Largest(session, calls)]
    experiment = tiny_experiment(
        training__num_steps=8, checkpoints__every=4, evaluation__every=3, samples__prompts=(), logging__every=4
    )
    train(experiment, tmp_path / "whole", say=silent, hooks=hooks)
    assert [call[0] for call in calls] == [3, 6, 8]
    assert [call[2] for call in calls] == [True] * 3  # it comes after the evaluations of its moment
    kinds = [(line["step"], line["kind"], "largest" in line) for line in read_metrics(tmp_path / "whole")]
    assert kinds == [
        (3, "eval", False), (3, "train", True),
        (4, "train", False),
        (6, "eval", False), (6, "train", True),
        (8, "train", False), (8, "eval", False), (8, "train", True),
    ]  # fmt: skip
    calls.clear()
    # The first session ends after a step that no checkpoint of its own was due at; the best one is saved with it.
    train(experiment, tmp_path / "halved", hard_stop=7, say=silent, hooks=hooks)
    # As one that was killed: lines of steps that no checkpoint has are taken back.
    with open(tmp_path / "halved" / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "train", "step": 8, "largest": 0.5}) + "\n")
    train(experiment, tmp_path / "halved", say=silent, hooks=hooks)
    assert [call[:2] for call in calls] == [(3, None), (6, None), (8, (7, 5))]
    whole, halved = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "halved"))
    assert whole == halved


def test_a_hook_may_ask_for_the_end(tiny_experiment, tmp_path):
    from train.process.stop import Stop

    stop = Stop()

    class Enough(Hook):
        def __init__(self, session):
            self.every = 5

        def __call__(self, moment):
            stop.requested = "enough was seen"

    outcome = train(tiny_experiment(samples__prompts=()), tmp_path, say=silent, stop=stop, hooks=[Enough])
    assert (outcome.state, outcome.step) == ("interrupted", 5)
    assert outcome.reason == "enough was seen; the same command continues from step 5"
    assert train(tiny_experiment(samples__prompts=()), tmp_path, say=silent).state == "finished"
