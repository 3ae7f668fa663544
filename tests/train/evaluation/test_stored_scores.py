import json

import jax.numpy as jnp
import pytest

from model.errors import UserError
from train.evaluation.document_scores import DocumentScore
from train.evaluation.measures import LossSums
from train.evaluation.stored_scores import StoredScores, fingerprint_of_params

IDENTITY = {"run": "runs/a", "step": 3, "window": 8, "mesh": {"fsdp": 2}}


def score(number):
    return DocumentScore(number, f"{number}", "", 7, LossSums(1 / 3, 2, 3), (1 / 3, 2.0))


def opened(path, **changes):
    return StoredScores(path, IDENTITY | changes)


def test_scores_are_there_after_the_process_ended_in_any_line(tmp_path):
    path = tmp_path / "deep" / "results.jsonl"
    first = opened(path)
    assert first.scores == {}
    for number in (1, 0, 5):
        first.add(score(number))
    first.close()
    with open(path, "ab") as file:
        file.write(b'{"number": 9, "na')  # killed here
    again = opened(path)
    assert again.scores == {number: score(number) for number in (0, 1, 5)}
    again.add(score(9))
    again.close()
    third = opened(path)
    assert sorted(third.scores) == [0, 1, 5, 9]
    third.close()


def test_another_evaluation_is_refused_with_all_that_differs(tmp_path):
    path = tmp_path / "results.jsonl"
    opened(path).close()
    with pytest.raises(UserError, match=r"(?s)another evaluation.*step: 3 -> 4\n  window: 8 -> 16\ndelete it"):
        opened(path, step=4, window=16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a text of the user\n", "line 1: no result of a document"),
        ("without an end", "holds no results of documents"),
        ('{"format": 1}\n', "holds no results of documents"),
        (json.dumps({"format": 99, "identity": IDENTITY}) + "\n", "holds no results of documents"),
        (json.dumps({"format": 1, "identity": IDENTITY}) + "\n{}\n", "a line that is no result of a document"),
    ],
)
def test_other_files_are_refused_and_kept(tmp_path, content, message):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        opened(path)
    assert path.read_text() == content


def test_parameters_are_known_again():
    params = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.ones(4, jnp.bfloat16)}}
    known = fingerprint_of_params(params)
    assert known == fingerprint_of_params({"b": params["b"], "a": params["a"] + 0})
    swapped = params["a"].at[0, 0].set(1.0).at[0, 1].set(0.0)  # the same sum
    assert fingerprint_of_params(params | {"a": swapped}) != known
