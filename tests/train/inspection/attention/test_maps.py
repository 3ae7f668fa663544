"""Entropy and distance of heads against loops; the page of a run's attention."""

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest

from model.attention.directions import Bidirectional
from model.errors import UserError
from model.taps.request import Tap
from tests.train.inspection.models import FAMILIES
from tests.train.inspection.sources import BOTH, RECURRENT, run_of
from train.inspection.attention import maps
from train.inspection.source import subject_of
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


def normed(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attended(w, x, keys, causal):
    """The weights (N, T, S) and the output (T, D) of an attention, head by head and query by query, in float64."""
    weights, out = [], np.zeros_like(x)
    for n in range(w["query"].shape[1]):
        q, k, v = x @ w["query"][:, n], keys @ w["key"][:, n], keys @ w["value"][:, n]
        rows = np.zeros((len(q), len(k)))
        for t, query in enumerate(q):
            seen = t + 1 if causal else len(k)
            rows[t, :seen] = softmax(k[:seen] @ query / np.sqrt(len(query)))
        weights.append(rows)
        out += rows @ v @ w["output"][n]
    return np.array(weights), out


def by_hand(params, source, target):
    """The weights of encoder, decoder and cross-attention of `BOTH`, by kind and layer."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    table, found = params["embedding"]["table"], {"encoder": [], "decoder": [], "cross": []}
    layer = lambda blocks, n: jax.tree.map(lambda x: x[n], blocks)  # noqa: E731
    h = table[source]
    for w in [layer(params["encoder"]["blocks"], 0)]:
        weights, out = attended(w["mixer"], *[normed(h, w["residual"]["mixer_norm"]["scale"])] * 2, causal=False)
        h = h + out
        found["encoder"].append(weights)
    h = normed(h, params["encoder"]["final_norm"]["scale"])
    x = table[target]
    for w in [layer(params["blocks"], n) for n in range(2)]:
        scales = {name: norm["scale"] for name, norm in w["residual"].items()}
        weights, out = attended(w["mixer"], *[normed(x, scales["mixer_norm"])] * 2, causal=True)
        x = x + out
        found["decoder"].append(weights)
        weights, out = attended(w["cross"], normed(x, scales["cross_norm"]), h, causal=False)
        x = x + out
        found["cross"].append(weights)
        x = x + np.maximum(normed(x, scales["ffn_norm"]) @ w["ffn"]["up"], 0) @ w["ffn"]["down"]
    return found


def test_maps_of_encoder_decoder_and_cross_attention_are_those_by_hand(tmp_path):
    run = run_of(BOTH)
    result = maps.inspect(run, text="cba", source="a b c")
    expected = by_hand(run.params, [*b"a b c", 256], [7, *b"cba"])
    names = {"encoder": "encoder_layer_{}", "decoder": "decoder_layer_{}", "cross": "cross_layer_{}"}
    arrays = {names[kind].format(n): x for kind, layers in expected.items() for n, x in enumerate(layers)}
    assert list(result.arrays) == list(arrays)
    for name, weights in arrays.items():
        np.testing.assert_allclose(result.arrays[name], weights, atol=3e-6)
    assert result.arrays["cross_layer_1"].shape == (4, 4, 6)
    shape = maps.shape_of_heads(arrays["cross_layer_1"])
    (entry,) = [x for x in result.numbers["heads"] if (x["of"], x["layer"], x["head"]) == ("cross", 1, 2)]
    assert entry["entropy"] == pytest.approx(shape.entropy_N[2], abs=1e-5)
    assert entry["distance"] == pytest.approx(np.mean((arrays["cross_layer_1"][2] * apart(4, 6)).sum(-1)), abs=1e-5)
    assert result.numbers["source"] == ["a", " ", "b", " ", "c", "<end>"]
    page = result.write(tmp_path).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert [part.get("source") for part in data if "tokens" in part] == [None, None, result.numbers["source"]]
    assert "all tokens of the source the same weight has an entropy of 1.79 nats" in page  # log 6


def apart(queries, keys):
    return np.abs(np.arange(queries)[:, None] - np.arange(keys)[None, :])


def test_the_alignment_of_recurrences_is_that_by_hand():
    run = run_of(RECURRENT)
    result = maps.inspect(run, text="cba", source="abc", layers=[1])
    assert list(result.arrays) == ["cross_layer_1"]
    assert result.notes == [
        f"Of the {name} nothing is shown: no self-attention is chosen, or it has none."
        for name in ("encoder", "decoder")
    ]
    subject, source = subject_of(run, "abc")
    taps = subject.taps(
        np.array([[7, *b"cba"]], np.int32), Tap("cross_query", layers=(1,)), Tap("cross_value", layers=(1,))
    )
    state_TH, annotation_SD = taps["cross_query"][0, 0, :, 0], taps["cross_value"][0, 0, :, 0]
    w = jax.tree.map(lambda x: np.asarray(x[1], np.float64), run.params["blocks"]["cross"])
    for t, state in enumerate(state_TH):
        scores = [np.tanh(state + annotation @ w["key"][:, 0]) @ w["score"][:, 0] for annotation in annotation_SD]
        np.testing.assert_allclose(result.arrays["cross_layer_1"][0, t], softmax(np.array(scores)), atol=3e-6)
    assert len(source) == annotation_SD.shape[0] == 4


@pytest.mark.sweep
def test_layers_of_both_stacks():
    run = run_of(BOTH)
    assert list(maps.inspect(run, text="a", source="b", layers=[-1]).arrays) == [
        "encoder_layer_0",
        "decoder_layer_1",
        "cross_layer_1",
    ]
    assert list(maps.inspect(run, text="a", source="b", layers=[1]).arrays) == ["decoder_layer_1", "cross_layer_1"]
    with pytest.raises(
        UserError, match="--layers: neither encoder nor decoder has attention in a layer 2; give 0 to 1"
    ):
        maps.inspect(run, text="a", source="b", layers=[0, 2])
    with pytest.raises(UserError, match="--layers=1,-1 names a layer twice"):
        maps.inspect(run, text="a", source="b", layers=[1, -1])
    with pytest.raises(UserError, match="--layers is empty; give numbers of layers"):
        maps.inspect(run, text="a", source="b", layers=[])


def test_an_encoder_alone_sees_both_sides_and_its_caption_says_so():
    config = dataclasses.replace(FAMILIES["gpt"], vocab_size=257, visibility=Bidirectional())
    result = maps.inspect(run_of(config), text="abc")
    assert (result.arrays["layer_0"] > 0).all()
    uniform = maps.shape_of_heads(np.full((1, 4, 4), 0.25))
    caption = f"all tokens the same weight has an entropy of {np.log(4):.2f} nats and a mean distance of {uniform.distance_N[0]:.1f}"
    assert caption in result.parts[1].caption


def test_heads_that_are_named_are_shown_alone(run, tmp_path):
    whole, some = maps.inspect(run, text="the cat"), maps.inspect(run, text="the cat", heads=["1.3", "0.1", "1.0"])
    chosen = {0: [1], 1: [0, 3]}
    for layer, heads in chosen.items():
        np.testing.assert_array_equal(some.arrays[f"layer_{layer}"], whole.arrays[f"layer_{layer}"][heads])
    expected = [each for each in whole.numbers["heads"] if each["head"] in chosen[each["layer"]]]
    assert some.numbers["heads"] == expected
    drawn, heat = (part.data for part in some.parts)
    assert (drawn["heads"], heat["columns"]) == ([[1], [0, 3]], [0, 1, 3])
    assert len(some.lines) == 4
    with pytest.raises(UserError, match="there is no head 2.0; the nearest is 1.0"):
        maps.inspect(run, text="the cat", heads=["2.0"])


def test_heads_of_a_model_that_reads_a_source():
    shown = maps.inspect(run_of(BOTH), text="a", source="b", heads=["0.3", "1.1"])
    assert {name: len(x) for name, x in shown.arrays.items()} == {
        "encoder_layer_0": 1,
        "decoder_layer_1": 1,
        "cross_layer_0": 1,
        "cross_layer_1": 1,
    }
    with pytest.raises(UserError, match="there is no head 1.4; the nearest is 1.3"):
        maps.inspect(run_of(BOTH), text="a", source="b", heads=["1.4"])
