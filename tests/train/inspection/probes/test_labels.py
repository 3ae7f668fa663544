"""Labels by their definition, and a control task that is a function of the token alone."""

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.probes.labels import control_labels, kind_of, labels_of

BATCH = {
    "tokens": np.array([[0, 1, 2, 3, 1, 0]]),
    "segment_ids": np.array([[1, 1, 1, 2, 2, 0]]),
    "positions": np.array([[0, 1, 2, 0, 1, 2]]),
}
KINDS = np.array([5, 0, 3, 2])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("kind", [5, 0, 3, 2, 0, -1]),
        ("previous", [-1, 5, 0, -1, 2, -1]),
        ("next", [0, 3, -1, 0, -1, -1]),
        ("position", [0, 1, 2, 0, 1, -1]),
    ],
)
def test_tasks(task, expected):
    assert list(labels_of(task, BATCH, KINDS).labels_BT[0]) == expected


def test_kinds():
    assert [kind_of(text) for text in (" the", "The", "7", " ", "\n", ".", "", "\ufffd")] == [0, 1, 2, 3, 4, 5, 5, 5]
    with pytest.raises(UserError, match="no task is called 'previus'.*previous"):
        labels_of("previus", BATCH, KINDS)


def test_the_control_task_has_the_frequencies_of_the_labels():
    labels = np.array([0] * 700 + [2] * 300 + [-1] * 50)
    control = control_labels(labels, labels, 5000, seed=1)
    shares = np.bincount(control) / 5000
    np.testing.assert_allclose(shares, [0.7, 0, 0.3], atol=0.02)
    np.testing.assert_array_equal(control, control_labels(labels, labels, 5000, seed=1))
