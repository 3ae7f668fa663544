"""Head scores, patches and shares of a logit are those that TransformerLens gave (tests/parity/inspection)."""

import pathlib

import numpy as np
import pytest

from tests.parity.inspection.ours import compared

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "inspection"


@pytest.fixture(scope="module")
def numbers():
    recorded = dict(np.load(FIXTURES / "transformer_lens.npz"))
    return recorded, compared(FIXTURES / "gpt2", recorded)


NAMES = ["previous_token", "duplicate_token", "induction", "diagonal", "share_parts", "share_heads"]
NAMES += [f"patch_{name}" for name in ("block_output", "mixer_output", "ffn_output", "mixer_heads")]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_transformer_lens(numbers, name):
    recorded, found = numbers
    expected = recorded[f"expected_{name}"]
    assert np.abs(expected).max() > 0.02
    np.testing.assert_allclose(found[name], expected, atol=2e-5)


def test_all_recorded_numbers_are_compared(numbers):
    assert {f"expected_{name}" for name in NAMES} == {name for name in numbers[0] if name.startswith("expected_")}
