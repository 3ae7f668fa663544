"""The two tiers of tests: `make test` runs those without the marker `sweep`, `make test-all` runs all.

A sweep is a long matrix. Its representative runs unmarked in the same file, which tests/test_layout.py asserts.
"""

import pytest

SWEEP = pytest.mark.sweep
# {file: (number of its tests in a sweep, number of all)}, as pytest collected them before it deselected any.
COLLECTED = pytest.StashKey[dict]()


def counted(items):
    """{file: (tests in a sweep, all tests)} of collected tests."""
    counts = {}
    for item in items:
        swept, every = counts.get(item.path, (0, 0))
        counts[item.path] = swept + (item.get_closest_marker("sweep") is not None), every + 1
    return counts


def only_swept(counts):
    """The files of which `make test` would run nothing."""
    return [path for path, (swept, every) in counts.items() if swept == every]


def representatives(cases, *kept):
    """The cases for `parametrize`, of which all but the kept ones are in the sweep."""
    cases = list(cases)
    assert kept
    assert all(case in cases for case in kept), "no such case"
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if case in kept else [SWEEP])
        for case in cases
    ]


def first_of_each(kind, cases):
    """The cases for `parametrize`, of which all but the first of each kind are in the sweep."""
    cases = list(cases)
    return representatives(cases, *{kind(case): case for case in reversed(cases)}.values())
