"""The shapes of programs, and options that make a token's result depend on its own text alone."""

import pytest

from model.feedforward.dispatch import Dropless
from model.inference.engine.programs import decode_sizes, decode_width, read_sizes, serving_config
from tests.model.inference.engine.serving import MODELS


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1, [2]), (2, [2]), (3, [2, 4]), (16, [2, 4, 8, 16]), (99, [2, 4, 8, 16, 32])]
)
def test_programs_decode_two_rows_or_more(rows, sizes):
    assert decode_sizes(rows) == sizes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", [2, 9, 128])
def test_programs_read_two_rows_or_more_within_the_budget(name, budget):
    sizes = read_sizes(MODELS[name], budget)
    counts = [rows * tokens for rows, tokens in sizes]
    assert min(rows for rows, _ in sizes) >= 2
    assert counts[0] <= min(budget, 32)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 2


def test_memories_are_read_token_by_token_and_experts_take_all():
    assert serving_config(MODELS["dense"]) == MODELS["dense"]
    assert serving_config(MODELS["delta"]).exceptions[0].mixer.chunk == 1
    assert serving_config(MODELS["state space"]).mixer.chunk == 1
    assert serving_config(MODELS["experts"]).ffn.dispatch == Dropless()
    assert [decode_width(MODELS[name]) for name in ("dense", "delta", "state space", "GRU")] == [1, 2, 2, 1]
