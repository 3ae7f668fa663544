"""Entropy and distance of heads against loops; the page of a run's attention."""

import json
import math
import re

import numpy as np
import pytest

from train.inspection.attention import maps
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


def test_shape_of_heads_is_that_of_a_loop():
    weights = np.random.default_rng(0).random((2, 5, 5)) * np.tri(5)
    weights[0, 4] = [0, 0, 0, 0, 1]
    weights /= weights.sum(-1, keepdims=True)
    found = maps.shape_of_heads(weights)
    for head in range(2):
        entropy = [-sum(p * math.log(p) for p in row if p > 0) for row in weights[head]]
        distance = [sum(p * abs(t - s) for s, p in enumerate(row)) for t, row in enumerate(weights[head])]
        assert found.entropy_N[head] == pytest.approx(np.mean(entropy))
        assert found.distance_N[head] == pytest.approx(np.mean(distance))
        assert found.first_N[head] == pytest.approx(weights[head][:, 0].mean())


def test_maps_of_a_run(run, tmp_path):
    result = maps.inspect(run, text="the café\n", layers=[1])
    page = result.write(tmp_path).read_text()
    weights = np.load(tmp_path / "arrays.npz")["layer_1"]
    assert weights.shape == (4, 11, 11)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not np.triu(weights, 1).any()
    numbers = json.loads((tmp_path / "result.json").read_text())
    assert [(each["layer"], each["head"]) for each in numbers["heads"]] == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert numbers["heads"][0]["entropy"] == pytest.approx(maps.shape_of_heads(weights).entropy_N[0])
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert data[0]["tokens"][:4] == ["<end>", "t", "h", "e"]
    assert data[0]["weights"][0]["shape"] == [4, 11, 11]
    assert len(result.lines) == 5


@pytest.mark.sweep
def test_a_long_text_is_cut_and_one_token_is_enough(run, monkeypatch):
    assert "first 32: the model's context" in maps.inspect(run, text="a" * 99).notes[0]
    monkeypatch.setattr(maps, "MAX_WEIGHTS", 8 * 49)
    assert "first 7: the page" in maps.inspect(run, text="a" * 99).notes[0]
    assert len(maps.inspect(run, text="a", layers=[0]).numbers["ids"]) == 2
