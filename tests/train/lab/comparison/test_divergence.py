"""The first difference of two lists of lines, by metric."""

import math

from train.lab.comparison.divergence import divergence


def lines(losses, first=1, **more):
    return [{"kind": "train", "step": first + n, "loss": loss, "rate": 0.1} | more for n, loss in enumerate(losses)]


def evaluation(step, loss, **more):
    return {"kind": "eval", "step": step, "loss": loss} | more


def test_equal_runs_part_nowhere_and_nan_is_equal_to_nan():
    same = [*lines([3.0, math.nan, 1.0]), evaluation(3, 2.0)]
    found = divergence(same, [dict(line) for line in same])
    assert (found.first, found.common_steps, found.last_common_step, found.last_equal_step) == ([], 3, 3, 3)


def test_the_first_step_of_each_metric_in_order():
    a = [*lines([3.0, 2.0, 1.0, 0.5]), evaluation(4, 2.0), evaluation(4, 5.0, name="code")]
    b = [*lines([3.0, 2.0, 1.5, 9.0]), evaluation(4, 2.0), evaluation(4, 4.0, name="code")]
    b[1]["rate"] = 0.2
    found = divergence(a, b)
    assert [(item.metric, item.step, item.a, item.b) for item in found.first] == [
        ("rate", 2, 0.1, 0.2),
        ("loss", 3, 1.0, 1.5),
        ("code loss", 4, 5.0, 4.0),
    ]
    assert (found.first[1].difference, found.first[1].relative) == (0.5, 0.5)
    assert found.last_equal_step == 1


def test_one_bit_is_a_difference():
    found = divergence(lines([1.0]), lines([math.nextafter(1.0, 2.0)]))
    assert found.first[0].difference == 2**-52
    assert found.last_equal_step is None


def test_a_metric_that_only_one_run_has():
    (item,) = divergence(lines([1.0]), lines([1.0], z_loss=0.5)).first
    assert (item.metric, item.a, item.b, item.difference, item.relative) == ("z_loss", None, 0.5, None, None)


def test_no_common_step():
    found = divergence(lines([1.0]), lines([2.0], first=5))
    assert (found.common_steps, found.last_common_step, found.first) == (0, None, [])
    assert divergence([], []).common_steps == 0
