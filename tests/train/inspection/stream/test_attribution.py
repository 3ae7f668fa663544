"""The instrument of shares of a logit: numbers that sum, its page."""

import pytest

from model.errors import UserError
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
