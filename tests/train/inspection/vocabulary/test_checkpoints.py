"""Readings of checkpoints: their order, their mesh, what is refused; curves of few and of many names."""

import pytest

from model.errors import UserError
from train.inspection.vocabulary.checkpoints import MAX_NAMED, at_checkpoints, curves
from train.parallel.mesh import parse_mesh
from train.run.loading import load_run


def test_checkpoints_are_read_by_step_on_the_mesh_of_the_run(tiny_run):
    run = load_run(tiny_run, mesh=parse_mesh("fsdp=4,tensor=2"))
    found = at_checkpoints(run, ["20", "10"], lambda there: (there.step, dict(there.mesh.shape)))
    assert list(found.items()) == [(step, (step, dict(run.mesh.shape))) for step in (10, 20)]
    assert at_checkpoints(run, None, lambda there: there is run) == {20: True}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "--checkpoints is empty; give steps such as 100,200"),
        (["10", "10"], "--checkpoints=10,10 names step 10 twice"),
        (["20", "latest"], "--checkpoints=20,latest names step 20 twice"),
        (["15"], "no checkpoint"),
    ],
)
def test_refused(tiny_run, names, words):
    with pytest.raises(UserError, match=words):
        at_checkpoints(load_run(tiny_run), names, lambda there: there.step)


def test_of_many_curves_the_median_alone_has_a_name():
    few = {f"word {n}": [float(n), 2.0] for n in range(1, 4)}
    many = {f"word {n}": [float(n), 2.0] for n in range(1, MAX_NAMED + 2)}
    svgs = [curves("Ranks", "words", [10, 20], each, unit="rank", ranks=True).svg for each in (few, many)]
    assert [("word 1" in svg, "median" in svg) for svg in svgs] == [(True, False), (False, True)]
    assert ">10<" in svgs[0]


def test_names_with_signs_that_matplotlib_reads_are_shown():
    svg = curves("Shares", "words", [10, 20], {"_a": [0, 1], "$x$": [1, 0], "n" * 60: [1, 1]}, unit="share").svg
    assert all(name in svg for name in ("_a", "$x$", "n" * 39 + "\u2026"))
