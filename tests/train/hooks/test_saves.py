"""When checkpoints are saved, and that metrics reach the disk before."""

import types

import pytest

from train.hooks.interface import StepInfo
from train.hooks.saves import SavesHook


@pytest.fixture
def made(tiny_experiment):
    """A function that makes the hook, and the list of what it does."""

    def make(**changes):
        done = []
        metrics = types.SimpleNamespace(flush=lambda: done.append("flush"))
        store = types.SimpleNamespace(save=lambda experiment, *saved: done.append(saved))
        session = types.SimpleNamespace(experiment=tiny_experiment(**changes), metrics=metrics)
        return SavesHook(session, store, 3, lambda: "carried"), done

    return make


def step_info(step, **more):
    return StepInfo(step=step, held=f"state {step}", scalars={}, **({"last": False} | more))


def test_it_is_due_every_so_many_steps_at_the_last_and_where_the_model_is_the_best(made):
    hook, _ = made(checkpoints__every=4)
    assert [step for step in range(1, 10) if hook.due(step_info(step, last=step == 9))] == [4, 8, 9]
    assert hook.due(step_info(5, best=True))
    hook, _ = made(checkpoints__every=4, checkpoints__keep_best=0)
    assert not hook.due(step_info(5, best=True))
    assert hook.due(step_info(8, best=True))


def test_metrics_are_on_the_disk_before_the_save_begins(made):
    hook, done = made()
    assert hook.saved == 3
    hook(step_info(5, validation=1.25))
    assert done == ["flush", ("state 5", 5, 1.25, "carried")]
    assert hook.saved == 5
