"""A finished run to report on."""

import pytest

from tests.train.report.pages import fill


@pytest.fixture
def run(tmp_path):
    """A finished run of 600 steps with every file."""
    folder = tmp_path / "demo"
    fill(folder, steps=600)
    return folder
