"""One call for all that launch.evaluate does."""

import json
import shutil

import pytest

from model.errors import UserError
from tests.train.conversion.folders import published
from train.evaluation.bench.request import Request, evaluate_request
from train.evaluation.document_scores import Kept
from train.evaluation.documents import from_files
from train.evaluation.evaluate import evaluate
from train.run.folder import RESULTS
from train.run.loading import load_run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = [("a", "the cat"), ("b", "a dog hears"), ("a", "old trees or grey birds"), ("b", "in a house")]
    path = tmp_path_factory.mktemp("texts") / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text, "domain": domain}) + "\n" for domain, text in rows))
    return str(path)


def test_the_same_numbers_as_evaluate(tiny_run, table):
    outcome = evaluate_request(Request(model=str(tiny_run), texts=(table,), kept=Kept(2, 4)))
    run = load_run(tiny_run)
    expected = evaluate(run, from_files(run.tokenizer, [table]))
    assert outcome.results[0].measures == expected.measures
    assert outcome.as_json() | {"seconds": 0} == expected.as_json() | {"seconds": 0}
    assert [len(one.ids) for one in outcome.results[0].scores] == [2, 2, 2, 2]
    split = evaluate_request(Request(model=str(tiny_run)))
    assert split.results[0].measures == evaluate(run).measures


def test_two_checkpoints_on_the_same_text(tiny_run, table):
    outcome = evaluate_request(
        Request(model=str(tiny_run), against=str(tiny_run), against_checkpoint="10", texts=(table,))
    )
    assert [result.step for result in outcome.results] == [20, 10]
    assert outcome.pair.same_tokenizer
    found = outcome.pair.measures["loss"]
    assert (found.base, found.other) == tuple(result.measures["loss"].value for result in outcome.results)
    assert found.difference.n == 4
    assert set(outcome.pair.domains) == {"a", "b"}
    on_split = evaluate_request(Request(model=str(tiny_run), against=str(tiny_run)))
    assert on_split.pair.measures["loss"].difference.mean == 0


def test_a_stream_joins_each_domain(tiny_run, table):
    streamed = Request(model=str(tiny_run), texts=(table,), stream=True, window=8, separator=" ")
    result = evaluate_request(streamed).results[0]
    assert result.windows == "transformers"
    assert [one.sums.characters for one in result.scores] == [30, 21]  # the first has nothing before it
    with pytest.raises(UserError, match="do not fill a window of 32; give more text, or a shorter --window"):
        evaluate_request(Request(model=str(tiny_run), texts=(table,), stream=True, window=32))


def test_lengths_of_a_text(tiny_run, table):
    outcome = evaluate_request(Request(model=str(tiny_run), texts=(table,), lengths=("0.5x", "1x"), stream=True))
    assert [each.length for each in outcome.lengths] == [8, 16]
    assert outcome.as_json()["lengths"][1]["windows"] == "sliding"
    assert outcome.results[0] is outcome.lengths[1].result


def test_results_are_kept_where_they_were_asked_for(tiny_run, table, tmp_path):
    file = tmp_path / "results.jsonl"
    request = Request(model=str(tiny_run), against=str(tiny_run), texts=(table,), results=file)
    first, again = (evaluate_request(request).as_json() for _ in range(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "results.jsonl-against"]
    assert len(file.read_text().splitlines()) == 5
    assert first["measures"] == again["measures"]


def test_results_in_the_run_folder(tiny_run, table, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for text in (table, table, f"{table[:-7]}*.jsonl"):
        evaluate_request(Request(model=str(run), texts=(text,), resume=True))
    assert len(list((run / RESULTS).iterdir())) == 2  # one for each request
    with pytest.raises(UserError, match=r"no run folder on this machine: --resume cannot keep results there"):
        evaluate_request(Request(model=str(published(tmp_path)), texts=(table,), resume=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": ("1x",), "against": "runs/b"}, "--lengths measures one model; leave out --against"),
        ({"lengths": ("1x",), "window": 4}, "--lengths chooses the windows and their strides"),
        ({"lengths": ("1x",), "windows": "transformers"}, "--lengths has sliding windows"),
        ({"resume": True, "results": "x"}, "--resume keeps the results in the run folder"),
    ],
)
def test_requests_that_contradict_themselves(options, message):
    with pytest.raises(UserError, match=message):
        evaluate_request(Request(model="runs/a", **options))
