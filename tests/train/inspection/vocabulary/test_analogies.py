"""Analogies on vectors that hold them by construction, and on a run."""

import numpy as np
import pytest

from model.errors import UserError
from train.inspection.vocabulary import analogies as instrument
from train.inspection.vocabulary.analogies import LIST, answers, inspect, rank_of
from train.inspection.vocabulary.vectors import unit
from train.run.loading import load_run


def test_the_answer_is_found_where_it_is():
    royal, female = np.array([0, 1.0, 0]), np.array([0, 0, 1.0])
    person = np.array([3.0, 0, 0])
    vectors = unit(np.stack([person, person + female, person + royal, person + royal + female, -person, royal]))
    assert [rank_of(answers(vectors, 0, 1, 2), d) for d in (3, 5, 4)] == [1, 2, 3]


def test_a_list_has_four_words_a_line():
    assert all(len(line.split()) == 4 for line in LIST)


def test_analogies_of_a_run(tiny_run, tmp_path):
    run = load_run(tiny_run)
    result = inspect(run, analogies=["a b c d", "the cat sees dogs"])
    assert result.numbers["left_out"] == ["the cat sees dogs"]
    (entry,) = result.numbers["analogies"]
    assert 1 <= entry["rank"] <= 254
    left_out = "1 of 2 analogies are left out: the cat sees dogs (no single token: 'the', 'cat', 'sees', 'dogs')."
    assert result.notes == [left_out]
    assert inspect(run, analogies=["a b c d", "a b c c"]).notes[0].endswith("a b c c (two words are one token).")
    twice = inspect(run, analogies=["a b c d", "a b c c", "a b c c"])
    assert (len(twice.numbers["left_out"]), twice.notes[0][:6]) == (2, "2 of 3")
    assert "rank of d" in result.write(tmp_path).read_text()
    with pytest.raises(UserError, match="no analogy of 30 has four words that are each a token"):
        inspect(run)
    with pytest.raises(UserError, match="'a b' has 2 words; expected four"):
        inspect(run, analogies=["a b"])


def test_more_answers_than_a_page_shows_are_said(tiny_run, monkeypatch):
    monkeypatch.setattr(instrument, "MAX_ROWS", 1)
    result = inspect(load_run(tiny_run), analogies=["a b c d", "e f g h"])
    assert (len(result.parts[0].rows), len(result.numbers["analogies"])) == (1, 2)
    assert result.notes == ["The page shows the first 1 of 2 answers; result.json has all."]


def test_over_training_steps_each_checkpoint_answers(tiny_run, tmp_path):
    run, lines = load_run(tiny_run), ["a b c d", "e f g h", "a b c d"]
    result = inspect(run, analogies=lines, checkpoints=["10", "20"])
    alone = [inspect(load_run(tiny_run, step), analogies=lines) for step in ("10", "20")]
    np.testing.assert_array_equal(result.arrays["ranks_by_step"], [each.arrays["ranks"] for each in alone])
    assert [each["step"] for each in result.numbers["over_steps"]] == [10, 20]
    for found, one in zip(result.numbers["over_steps"], alone, strict=True):
        for name in ("top_1", "top_5", "top_10", "mean_reciprocal_rank"):
            assert found[name] == one.numbers[name]
    assert (result.numbers["step"], result.numbers["top_5"]) == (20, alone[1].numbers["top_5"])
    assert alone[1].numbers["over_steps"] == []
    table = result.parts[1]
    assert list(table.head) == ["a is to b as c is to d", "step 10", "step 20", "first answer"]
    assert table.rows[0][1:3] == [str(each.arrays["ranks"][0]) for each in alone]
    assert "Rank of the expected word" in result.write(tmp_path).read_text()
