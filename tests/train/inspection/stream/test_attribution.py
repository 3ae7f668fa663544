"""The instrument of shares of a logit: numbers that sum, its page."""

import pytest

from model.errors import UserError
from tests.train.inspection.sources import BOTH, run_of
from train.inspection.stream.attribution import inspect
from train.run.loading import load_run


def test_the_page_of_a_run(tiny_run, tmp_path):
    run = load_run(tiny_run)
    result = inspect(run, text="the cat", answer="s", wrong="x", position=3)
    numbers = result.numbers
    assert numbers["total_before_softcap"] == pytest.approx(numbers["logits"][0] - numbers["logits"][1], abs=1e-4)
    assert sum(numbers["parts"].values()) + numbers["bias"] == pytest.approx(numbers["total_before_softcap"], abs=1e-4)
    assert numbers["heads"][1].shape == (4,)
    page = result.write(tmp_path).read_text()
    assert "Neurons with the largest shares" in page
    assert result.lines[-1] == f"sum: {numbers['total_before_softcap']:+.4f}"
    with pytest.raises(UserError, match="--position=9: the text has 8 tokens"):
        inspect(run, text="the cat", position=9)
    with pytest.raises(UserError, match="--answer='st' is 2 tokens"):
        inspect(run, text="the cat", answer="st")


def test_beside_a_source_cross_attention_has_its_shares_and_heads(tmp_path):
    result = inspect(run_of(BOTH), text="abc", source="one", answer="s")
    numbers = result.numbers
    assert sum(numbers["parts"].values()) + numbers["bias"] == pytest.approx(numbers["logits"][0], abs=1e-4)
    assert numbers["cross_heads"][1].shape == (4,)
    page = result.write(tmp_path).read_text()
    assert "Heads of cross-attention" in page
    assert "sum to that of its cross-attention" in page
