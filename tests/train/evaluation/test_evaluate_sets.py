"""Evaluations of sets of text: domains, details, results that continue, the windows of transformers' documentation."""

import json
import math

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward
from train.evaluation.document_scores import Kept
from train.evaluation.documents import from_text
from train.evaluation.evaluate import MEASURES, evaluate
from train.run.loading import load_run


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(str(tiny_run))


TEXTS = ["the cat", "a dog hears a bird. " * 5, "old", "the grey tree or the house. " * 3, "never in a house"]


def test_details_leave_the_losses_as_they_are(run):
    plain = evaluate(run, TEXTS)
    found = evaluate(run, TEXTS, detailed=True)
    np.testing.assert_allclose(found.tally.column("nll"), plain.tally.column("nll"), rtol=1e-5)
    details = found.details
    assert plain.details is None
    assert sum(each.tokens for each in details.bins) == sum(each.tokens for each in details.positions)
    total = sum(each.tokens * each.loss.value for each in details.positions)
    assert total == pytest.approx(found.tally.column("nll").sum())
    assert 0 < details.accuracy.value < details.accuracy_top.value < 1
    assert 0 < details.entropy.value < math.log(257)
    values = json.loads(json.dumps(found.as_json(), allow_nan=False))["details"]
    assert values["accuracy"]["value"] == details.accuracy.value
    assert [each["first"] for each in values["positions"]] == [1, 2, 3, 5, 9]


def test_a_killed_evaluation_continues_with_exactly_the_same_numbers(run, tmp_path):
    """Killed after each batch in turn; rows are shared by documents, and a document has windows in several batches."""
    options = {"stride": 4, "batch_size": 2, "detailed": True, "kept": Kept(5, 50)}
    expected = evaluate(run, TEXTS, **options)
    batches = []
    evaluate(run, TEXTS, on_progress=batches.append, **options)
    assert len(batches) > 3

    class KilledError(Exception):
        pass

    for count in range(1, len(batches)):
        path = tmp_path / f"{count}.jsonl"

        def die(done, last=batches[count - 1]):
            if done >= last:
                raise KilledError

        with pytest.raises(KilledError):
            evaluate(run, TEXTS, results=path, on_progress=die, **options)
        found = evaluate(run, TEXTS, results=path, **options)
        assert [one.as_json() for one in found.scores] == [one.as_json() for one in expected.scores]
        assert found.measures == expected.measures
    scored = []
    again = evaluate(run, TEXTS, results=path, on_progress=scored.append, **options)
    assert again.measures == expected.measures
    with pytest.raises(UserError, match=r"(?s)another evaluation.*stride: 4 -> 8"):
        evaluate(run, TEXTS, results=path, **options | {"stride": 8})
    with pytest.raises(UserError, match="stored results have text 1 as document 1, and the text has"):
        evaluate(run, TEXTS[::-1], results=path, **options)


def test_documents_that_are_stored_need_no_program(run, tmp_path, monkeypatch):
    import train.evaluation.perplexity as module

    path = tmp_path / "results.jsonl"
    expected = evaluate(run, TEXTS, results=path)
    monkeypatch.setattr(module, "_compile_scoring", lambda *options: None)  # nothing that can be called
    assert evaluate(run, TEXTS, results=path).measures == expected.measures


def test_windows_of_transformers_weigh_as_its_documented_loop(run):
    """The loop of the documentation, with the losses of single tokens from the model."""
    window, stride = 7, 3
    ids = run.tokenizer.encode("the old cat and a dog")
    logits = jax.jit(lambda tokens: forward(run.experiment.model, run.params, tokens).logits_BTV)
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        row = np.zeros((1, window), np.int32)
        row[0, : end - begin] = ids[begin:end]
        log_p = np.asarray(jax.nn.log_softmax(logits(row)[0, : end - begin]), np.float64)
        labels = end - previous
        losses = [-log_p[i - begin - 1, ids[i]] for i in range(max(end - labels, begin + 1), end)]
        total, count, previous = total + np.mean(losses) * (labels - 1), count + labels - 1, end
        if end == len(ids):
            break
    found = evaluate(run, [run.tokenizer.decode(ids)], windows="transformers", window=window, stride=stride)
    assert found.transformers_perplexity.value == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found.as_json()["transformers_perplexity"] == found.transformers_perplexity.value
    assert found.first_token == "left out"  # the mark that ends documents is not put before a text there
    assert found.transformers_perplexity.value != pytest.approx(found.measures["perplexity"].value, rel=1e-5)
    assert evaluate(run, ["abc"]).transformers_perplexity is None


def test_domains_are_measured_apart(run):
    documents = [from_text(run.tokenizer, f"{i}", text, "ab"[i % 2]) for i, text in enumerate(TEXTS)]
    found = evaluate(run, documents).as_json()
    alone = evaluate(run, documents[1::2]).as_json()
    for name in (*MEASURES, "tokens", "bytes", "characters"):
        assert found["domains"]["b"][name] == pytest.approx(alone[name], rel=1e-5), name
    mean = (found["domains"]["a"]["loss"] + found["domains"]["b"]["loss"]) / 2
    assert found["macro_average"]["loss"] == pytest.approx(mean)
    assert "domains" not in alone


def test_an_empty_domain_and_a_text_shorter_than_the_window_are_refused(run):
    full, empty = from_text(run.tokenizer, "t:1", "the cat", "a"), from_text(run.tokenizer, "t:2", "", "b")
    with pytest.raises(UserError, match="the domain 'b' has no token to score, as in t:2; give it a text"):
        evaluate(run, [full, empty])
    with pytest.raises(UserError, match="t:1 of a has 7 tokens, which do not fill a window of 16; give more text"):
        evaluate(run, [full], fills_window=True)
    assert evaluate(run, [full], fills_window=True, window=8).tally.count("tokens") == 7
