"""A hook that a research idea adds: the loop is not edited, and its lines are there once for each step."""

import json
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from train.hooks import interface
from train.hooks.interface import Hook, StepInfo, make_hook
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

    def __call__(self, info):
        size = max(float(np.abs(x).max()) for x in map(np.asarray, info.state.params["embedding"].values()))
        self.session.metrics.train(info.step, {"largest": size})
        self.calls.append((info.step, self.before, info.validation is not None))


def step_info(step, last=False):
    return StepInfo(step=step, last=last, held=None, scalars={})


def test_a_hook_is_due_every_so_many_steps_and_at_the_last():
    hook = Hook()
    hook.every = 3
    assert [step for step in range(1, 8) if hook.due(step_info(step, last=step == 7))] == [3, 6, 7]


def test_a_hook_of_ones_own_is_called_once_for_each_step_in_the_files(tiny_experiment, tmp_path):
    calls, hooks = [], [lambda session: Largest(session, calls)]
    experiment = tiny_experiment(
        training__num_steps=8, checkpoints__every=4, evaluation__every=3, samples__prompts=(), logging__every=4
    )
    train(experiment, tmp_path / "whole", say=silent, hooks=hooks)
    assert [call[0] for call in calls] == [3, 6, 8]
    assert [call[2] for call in calls] == [True] * 3  # it comes after the evaluations of its step
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
    # As a killed session: lines of steps without a checkpoint are removed.
    with open(tmp_path / "halved" / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "train", "step": 8, "largest": 0.5}) + "\n")
    train(experiment, tmp_path / "halved", say=silent, hooks=hooks)
    assert [call[:2] for call in calls] == [(3, None), (6, None), (8, (7, 5))]
    whole, halved = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "halved"))
    assert whole == halved


def test_the_documented_hook_runs_and_its_lines_are_there_once(tiny_experiment, tmp_path):
    """The class in the docstring, unchanged except for its period, in a run that is stopped and continued."""
    text = interface.__doc__
    source = textwrap.dedent(text[text.index("    class ") : text.index("    train(experiment")])
    assert source.count("100") == 1
    known = {"Hook": Hook, "jax": jax, "jnp": jnp}
    exec(source.replace("100", "3"), known)
    hooks = [known["Largest"]]
    experiment = tiny_experiment(training__num_steps=8, checkpoints__every=4, samples__prompts=())
    train(experiment, tmp_path / "whole", say=silent, hooks=hooks)
    train(experiment, tmp_path / "halved", hard_stop=5, say=silent, hooks=hooks)
    with open(tmp_path / "halved" / "metrics.jsonl", "a") as file:  # of a step that no checkpoint has
        file.write('{"kind": "largest", "step": 6, "parameter": 0.5}\n')
    train(experiment, tmp_path / "halved", say=silent, hooks=hooks)
    lines = [line for line in read_metrics(tmp_path / "whole") if line["kind"] == "largest"]
    assert [line["step"] for line in lines] == [3, 6, 8]
    assert all(line["parameter"] > 0 for line in lines)
    whole, halved = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "halved"))
    assert whole == halved


@pytest.mark.parametrize("every", [0, -3, 2.5, None, "10"])
def test_a_period_without_sense_is_refused_at_the_start(every, tiny_experiment, tmp_path):
    class Mine(Hook):
        def __init__(self, session):
            self.every = every

    words = f"the hook Mine: `every` must be a whole number of steps, at least 1, got {every!r}"
    with pytest.raises(UserError, match=words):
        make_hook(Mine, None)
    if every == 0:
        with pytest.raises(UserError, match=words):
            train(tiny_experiment(samples__prompts=()), tmp_path, say=silent, hooks=[Mine])


def test_a_hook_that_says_itself_when_it_is_due_needs_no_period():
    class Mine(Hook):
        def due(self, info):
            return info.step == 7

    hook = make_hook(lambda session: Mine(), types.SimpleNamespace())
    assert [step for step in range(9) if hook.due(step_info(step))] == [7]


def test_a_hook_may_ask_for_the_end(tiny_experiment, tmp_path):
    from train.process.stop import Stop

    stop = Stop()

    class Enough(Hook):
        def __init__(self, session):
            self.every = 5

        def __call__(self, info):
            stop.requested = "enough was seen"

    outcome = train(tiny_experiment(samples__prompts=()), tmp_path, say=silent, stop=stop, hooks=[Enough])
    assert (outcome.state, outcome.step) == ("interrupted", 5)
    assert outcome.reason == "enough was seen; the same command continues from step 5"
    assert train(tiny_experiment(samples__prompts=()), tmp_path, say=silent).state == "finished"
