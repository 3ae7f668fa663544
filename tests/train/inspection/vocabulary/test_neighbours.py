"""Nearest neighbours against a loop."""

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.vocabulary import neighbours as instrument
from train.inspection.vocabulary.neighbours import inspect, neighbours, overlap
from train.run.loading import load_run


def test_neighbours_are_those_of_a_loop():
    vectors = np.random.default_rng(0).normal(size=(9, 4))
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    expected = sorted(((i, cosine(vectors[2], vectors[i])) for i in range(9) if i != 2), key=lambda pair: -pair[1])
    found = neighbours(vectors, 2, 5)
    assert [i for i, _ in found] == [i for i, _ in expected[:5]]
    assert [c for _, c in found] == pytest.approx([c for _, c in expected[:5]])
    assert len(neighbours(vectors, 2, 99)) == 8


def test_the_page_of_a_run(tiny_run, tmp_path):
    run = load_run(tiny_run)
    result = inspect(run, words=["a", "."], top=3)
    assert [len(each) for each in result.numbers["neighbours"].values()] == [3, 3]
    assert "largest cosine" in result.write(tmp_path).read_text()
    with pytest.raises(UserError, match="--top must be at least 1"):
        inspect(run, words=["a"], top=0)


def test_more_rows_than_a_page_shows_are_said(tiny_run, monkeypatch):
    monkeypatch.setattr(instrument, "MAX_ROWS", 2)
    result = inspect(load_run(tiny_run), words=["a"], top=10**6)
    assert len(result.parts[0].rows) == 2
    assert result.notes == ["The page shows the first 2 of 256 neighbours; result.json has all."]
    assert len(result.numbers["neighbours"]["a"]) == 256
    assert result.lines[0].count(",") == 1


def test_over_training_steps_the_share_that_stays_is_that_of_the_lists(tiny_run, tmp_path):
    run = load_run(tiny_run)
    result = inspect(run, words=["a", "."], top=5, checkpoints=["20", "10"])
    alone = [inspect(load_run(tiny_run, step), words=["a", "."], top=5).numbers["neighbours"] for step in ("10", "20")]
    over = result.numbers["over_steps"]
    assert [(each["step"], each["neighbours"]) for each in over] == [(10, alone[0]), (20, alone[1])]
    assert result.numbers["neighbours"] == alone[1]
    names = [{word: {each["text"] for each in near} for word, near in found.items()} for found in alone]
    for word in ("a", "."):
        assert over[0]["shared_with_the_last"][word] == len(names[0][word] & names[1][word]) / 5
        assert over[1]["shared_with_the_last"][word] == 1
    assert [part.title for part in result.parts[1:]] == ["'a' over training steps", "'.' over training steps"]
    assert "Neighbours of the last step" in result.write(tmp_path).read_text()


def test_overlap_counts_tokens_not_texts():
    assert overlap([(1, 0.9), (2, 0.8)], [(2, 0.7), (3, 0.6)]) == 0.5
