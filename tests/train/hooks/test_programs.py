"""The programs of a run alone are the compiled functions themselves, and hold the state as it is."""

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
