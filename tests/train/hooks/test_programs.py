"""The programs of a run alone are the compiled functions themselves, and hold the state as it is."""

from tests.programs import _read_by_steps, _sharing
from train.hooks import programs
from train.hooks.programs import ALONE


def test_the_programs_of_a_run_alone(monkeypatch):
    monkeypatch.setattr(programs, "compile_train_step", lambda *arguments: ("step", *arguments))
    monkeypatch.setattr(programs, "compile_eval_step", lambda *arguments: ("evaluation", *arguments))
    state = object()
    assert ALONE.compile_step("experiment", "mesh", "statistics") == ("step", "experiment", "mesh", "statistics")
    assert ALONE.compile_evaluation("experiment", "mesh", 3) == ("evaluation", "experiment", "mesh", 3)
    assert ALONE.hold(state) is state
    assert ALONE.shows_progress


def test_trainings_of_tests_share_steps_only_where_these_read_the_same(tiny_experiment):
    """tests/programs.py: a step is made of the options in its key alone, so that it cannot read another."""
    make = _sharing(lambda experiment, mesh: experiment, _read_by_steps)

    def shared(one, other):
        return make(tiny_experiment(**one), "mesh") is make(tiny_experiment(**other), "mesh")

    assert shared({"training__seed": 1}, {"training__seed": 2})
    assert shared({"data__batch_size": 4}, {"data__batch_size": 8})
    # A batch of four rows has two micro-batches, or one where a ramp goes on to eight rows.
    two = {"training__gradient_accumulation": 2}
    assert not shared({"data__batch_size": 4, **two}, {"data__batch_size": 8, **two})
    assert not shared({"training__clip_norm": 1.0}, {"training__clip_norm": 2.0})
    read = make(tiny_experiment(), "mesh")
    assert not hasattr(read, "spikes")
    assert not hasattr(read.data, "sequence_length")
