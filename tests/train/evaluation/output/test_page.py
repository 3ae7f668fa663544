"""The page: complete in itself, its data, what it says of samples and of different tokenizers."""

import dataclasses
import json
import re

import pytest

from train.evaluation.bench.lengths import LengthResult
from train.evaluation.bench.pairs import compare
from train.evaluation.bench.request import Outcome
from train.evaluation.document_scores import Kept
from train.evaluation.evaluate import evaluate
from train.evaluation.measures import Tally
from train.evaluation.output.page import render_page, write_page
from train.run.loading import load_run

TEXTS = ["the café", "</script><b>a dog & a bird\n" * 3, "old"]


@pytest.fixture(scope="module")
def outcome(tiny_run):
    runs = [load_run(tiny_run, step) for step in ("20", "10")]
    results = [evaluate(run, TEXTS, detailed=True, kept=Kept(40, 60)) for run in runs]
    pair = compare(*results, same_tokenizer=True, draws=99)
    return Outcome(results=tuple(results), models=tuple(runs), pair=pair)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def alone(outcome):
    return dataclasses.replace(outcome, results=outcome.results[:1], models=outcome.models[:1], pair=None)


def test_the_page_refers_to_nothing_outside(outcome, tmp_path):
    write_page(outcome, "a <text>", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert not re.search(r"url\((?!#)", page)
    assert "<title>Perplexity of a &lt;text&gt;: Cairn report</title>" in page
    assert page.count("<script") == page.count("</script>") == 2  # no text ends the data
    assert page.count("<svg") == 2


def test_the_page_says_what_was_measured_and_how(outcome):
    page = render_page(alone(outcome), "t")
    assert "3 documents, 93 tokens, " in page
    assert "<td>loss per token, nats</td>" in page
    assert "Window 16 tokens, stride 8; a document" in page
    assert "Expected calibration error: 0." in page
    both = render_page(outcome, "t")
    assert "Intervals by a bootstrap over whole documents" in both or "There is no interval over documents" in both
    assert "B: window 16 tokens" in both
    assert "Expected calibration error: A 0." in both
    for text in (page, both):
        assert "<td>accuracy</td>" in text
        assert "<td>entropy per token, nats</td>" in text


def test_one_document_is_singular(outcome):
    one = dataclasses.replace(outcome.results[0], tally=Tally([outcome.results[0].scores[0].sums]))
    assert "1 document, 9 tokens, 9 bytes" in render_page(dataclasses.replace(alone(outcome), results=(one,)), "t")


@pytest.mark.parametrize("name", ["A", "B"])
def test_details_of_one_of_two_models_are_in_its_column_and_its_color(outcome, name):
    """Not the standard error of one model as the value of the other."""
    results = [
        dataclasses.replace(each, details=each.details if which == name else None)
        for which, each in zip("AB", outcome.results, strict=True)
    ]
    pair = compare(*results, same_tokenizer=True, draws=99)
    page = render_page(dataclasses.replace(outcome, results=tuple(results), pair=pair), "t")
    (cells,) = re.findall(r"<tr>\s*<td>accuracy</td>(.*?)</tr>", page, re.DOTALL)
    value = f"{outcome.results['AB'.index(name)].details.accuracy.value:.1%}"
    assert re.findall(r"<td[^>]*>(.*?)</td>", cells) == [*(value if each == name else "-" for each in "AB"), "", "", ""]
    assert f"Accuracy, entropy and calibration were measured of {name} alone" in page
    assert f"Expected calibration error: {name} 0." in page
    curve = {"A": "stroke: var(--train)", "B": "stroke: var(--validation)"}
    assert [curve[each] in page for each in "AB"] == [each == name for each in "AB"]


def test_models_with_other_tokens_have_no_details_to_compare(outcome):
    pair = compare(*outcome.results, same_tokenizer=False, draws=99)
    page = render_page(dataclasses.replace(outcome, pair=pair), "t")
    assert "<svg" not in page
    assert "<td>accuracy</td>" not in page
    assert "these models are not compared by them" in page


def test_the_data_hold_every_kept_token_with_its_loss(outcome):
    documents = data_of(render_page(alone(outcome), "t"))["documents"]
    assert [document["tokens"] for document in documents] == [9, 81, 3]
    assert [document["shown"] for document in documents] == [9, 40, 3]
    scores = outcome.results[0].scores
    for document, score in zip(documents, scores, strict=True):
        losses = []
        for _, tokens in document["pieces"]:
            losses += [token[1] for token in tokens] if isinstance(tokens, list) else [tokens]
        assert losses == pytest.approx(score.losses, abs=1e-4)
    pieces = dict(documents[0]["pieces"])
    assert [text for text, _ in pieces["é"]] == ["\ufffd", "\ufffd"]  # two bytes, one character
    assert "".join(text for text, _ in documents[1]["pieces"]) == TEXTS[1][:40]


def test_two_models_lie_over_one_another(outcome):
    page = render_page(outcome, "t")
    found = data_of(page)
    assert len(found["models"]) == 2
    assert all(len(piece) == 3 for document in found["documents"] for piece in document["pieces"])
    first = found["documents"][0]["pieces"][0]
    assert first[1:] == [pytest.approx(result.scores[0].losses[0], abs=1e-4) for result in outcome.results]
    assert "95% interval" in page
    assert "different tokenizers" not in page
    assert "different tokenizers" in render_page(
        dataclasses.replace(outcome, pair=compare(*outcome.results, same_tokenizer=False, draws=9)), "t"
    )


def test_a_sample_is_said_to_be_one(outcome):
    assert "This is a sample: the first tokens of every document" in render_page(outcome, "t")
    whole = evaluate(outcome.models[0], TEXTS, kept=Kept(1000, 1000))
    assert "This is a sample" not in render_page(Outcome(results=(whole,), models=outcome.models[:1]), "t")
    some = evaluate(outcome.models[0], TEXTS, kept=Kept(9, 9))
    assert "of 1 of 3 documents" in render_page(Outcome(results=(some,), models=outcome.models[:1]), "t")


def test_lengths_are_a_chart(outcome):
    lengths = (LengthResult(8, 0.5, outcome.results[0]), LengthResult(16, 1.0, outcome.results[1]))
    page = render_page(dataclasses.replace(alone(outcome), lengths=lengths), "t")
    assert "Loss against the window" in page
    assert "<th>window</th>" in page
    assert "Of the 3 documents that fill the longest window" in page


def test_domains_are_a_table_where_there_are_several(outcome):
    assert "<h3>Domains</h3>" not in render_page(alone(outcome), "t")
    scores = [dataclasses.replace(one, domain="ab"[one.number % 2]) for one in outcome.results[0].scores]
    several = dataclasses.replace(outcome.results[0], scores=tuple(scores))
    page = render_page(dataclasses.replace(alone(outcome), results=(several,)), "t")
    assert "<h3>Domains</h3>" in page
    assert "mean of the domains" in page
