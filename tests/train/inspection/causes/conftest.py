"""A model, and two texts of which one is patched into the other."""

import pytest

from tests.train.inspection.models import FAMILIES, subject, tokens
from train.inspection.causes.patch import Question


@pytest.fixture(scope="module")
def model():
    return subject(FAMILIES["llama"])


@pytest.fixture(scope="module")
def question():
    clean = tokens(1)[0]
    corrupt = clean.copy()
    corrupt[[4, 6]] = [7, 9]
    return Question(clean, corrupt, 3, 5)
