"""The function of scripts and notebooks: any texts on any run."""

import json
import math

import jax
import numpy as np
import pytest

from model.errors import UserError
from train.data.config import Bytes
from train.data.shards.dataset import Dataset
from train.data.tokenizers.interface import BytesTokenizer
from train.data.tokenizers.unrestored import UnrestoredText
from train.evaluation.documents import from_files
from train.evaluation.evaluate import MEASURES, Result, evaluate, finite_values
from train.evaluation.measures import LossSums, Tally
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding, layout_of
from train.run.loading import load_run


def one_device():
    """The layout of activations on one device."""
    return layout_of(make_mesh(Mesh(), jax.devices()[:1]), Sharding())


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(str(tiny_run))


def test_texts_are_what_their_files_are(run, tiny_text):
    paths = sorted(tiny_text.glob("*.txt"))[:2]
    files = evaluate(run, from_files(run.tokenizer, list(map(str, paths))), window=16, stride=4).as_json()
    texts = evaluate(run, [path.read_text(encoding="utf-8") for path in paths], window=16, stride=4).as_json()
    assert list(files.pop("domains")) == list(map(str, paths))
    del files["seconds"], texts["seconds"], files["macro_average"]
    assert texts == files
    assert (files["documents"], files["window"], files["stride"]) == (2, 16, 4)


def test_the_validation_split_is_the_default(run):
    found = evaluate(run)
    split = run.dataset().description["splits"]["validation"]
    assert {name: found.tally.count(name) for name in ("tokens", "bytes", "words")} == {
        name: split[name] for name in ("tokens", "bytes", "words")
    }
    assert list(found.measures) == list(MEASURES)
    assert (found.window, found.stride, found.step) == (16, 8, 20)


@pytest.mark.parametrize("mesh", [Mesh(fsdp=8), Mesh(fsdp=4, tensor=2), Mesh(data=4, tensor=2)])
def test_the_mesh_changes_nothing_but_where_parameters_lie(run, mesh):
    texts = ["the cat", "a dog hears a bird. " * 5, "old"]
    one = type(run)(**{**vars(run), "params": jax.device_put(run.params, jax.devices()[0]), "layout": one_device()})
    expected = evaluate(one, texts).tally
    found = evaluate(run, texts, mesh=mesh).tally
    np.testing.assert_allclose(found.column("nll"), expected.column("nll"), rtol=1e-5)
    assert [entry.tokens for entry in found.entries] == [entry.tokens for entry in expected.entries] == [7, 100, 3]
    with pytest.raises(UserError, match="does not multiply to the 8 devices"):
        evaluate(run, texts, mesh=Mesh(fsdp=3))


def test_a_document_begins_after_the_mark_that_begins_documents(run, monkeypatch):
    """As prompts do; here another one than the mark that ends them."""
    ended = evaluate(run, ["the cat"])
    monkeypatch.setattr(run.tokenizer, "_begin", ord("q"))
    begun = evaluate(run, ["the cat"])
    assert begun.tally.column("nll")[0] != ended.tally.column("nll")[0]
    assert begun.first_token == "after the mark that begins a document"
    # The same as that mark in the text, scored after nothing.
    unmarked = evaluate(type(run)(**{**vars(run), "tokenizer": Unmarked()}), ["qthe cat"])
    assert unmarked.tally.column("nll")[0] == pytest.approx(begun.tally.column("nll")[0], rel=1e-5)
    assert (unmarked.first_token, unmarked.left_out_tokens, unmarked.left_out_bytes) == ("left out", 1, 1)
    assert (unmarked.tally.count("tokens"), unmarked.tally.count("bytes")) == (7, 7)


class Unmarked(BytesTokenizer):
    """Bytes without a mark, for a model of 257 ids."""

    def __init__(self):
        super().__init__(Bytes(end_of_document=False))


def test_text_that_is_lost_is_counted(run, monkeypatch):
    decode = BytesTokenizer.decode
    monkeypatch.setattr(BytesTokenizer, "decode", lambda self, ids: decode(self, ids).replace("X", ""))
    assert evaluate(run, ["aXb", "ab"]).documents_not_restored == 1


def test_text_of_a_split_that_is_lost_is_what_was_counted_when_it_was_tokenized(run, monkeypatch):
    """A tokenizer without capitals returns as many bytes as it got: sizes do not show the loss."""
    known = evaluate(run).documents_not_restored
    monkeypatch.setattr(
        Dataset, "unrestored", lambda self, split: {"validation": UnrestoredText(documents=2, bytes=9)}[split]
    )
    assert (known, evaluate(run).documents_not_restored) == (0, 2)
    assert evaluate(run, ["ab"]).documents_not_restored == 0


def test_nothing_to_score_is_an_error(run):
    with pytest.raises(UserError, match="there is no token to score"):
        evaluate(run, [])
    with pytest.raises(UserError, match="stride must be from 1 to the window of 4 tokens, got 5"):
        evaluate(run, ["abc"], window=4, stride=5)


def test_what_is_not_finite_is_null_beside_its_logarithm():
    tally = Tally([LossSums(1e6, tokens=100_000, bytes=300_000, words=1), LossSums(2e5, 90_000, 250_000, 0)])
    result = Result(
        run="runs/a",
        step=1,
        tally=tally,
        measures=tally.measures(),
        window=8,
        stride=4,
        first_token="left out",
        left_out_tokens=1,
        left_out_bytes=3,
        documents_not_restored=0,
        seconds=0.1234,
    )
    found = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert found["word_loss"] == pytest.approx(1.2e6)
    assert (found["word_perplexity"], found["word_perplexity_standard_error"]) == (None, None)
    assert found["perplexity"] == pytest.approx(math.exp(12 / 1.9))
    assert (found["left_out_tokens"], found["left_out_bytes"], found["seconds"]) == (1, 3, 0.123)


def test_text_without_words_has_no_figures_per_word(run):
    found = evaluate(run, ["   "]).as_json()
    assert (found["words"], found["word_loss"], found["word_perplexity"]) == (0, None, None)
    assert found["bits_per_byte"] > 0


def test_json_holds_no_infinity():
    found = finite_values({"a": [np.inf, np.array([1.0, np.nan])], 3: (2,), "b": np.float32(1.5)})
    assert found == {"a": [None, [1.0, None]], "3": [2], "b": 1.5}
