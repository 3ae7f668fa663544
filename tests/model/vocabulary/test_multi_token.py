"""Multi-token prediction, against its equations token by token."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.feedforward.balance import BalanceLoss, LoadBias
from model.feedforward.experts import Experts
from model.feedforward.loads import load_statistics, update_load_biases
from model.feedforward.mlp import Gated
from model.layers import Except
from model.output import OutputWithLogits
from model.positions.absolute import Learned, NoPositions
from model.residual import PostNorm
from model.transformer import forward, init, logical_axes
from model.vocabulary.embedding import Untied
from model.vocabulary.multi_token import MultiToken, shift_left
from tests.tiers import SWEEP

DEEP = MultiToken(depth=3, weight=0.7)
EXPERTS = Experts(num_experts=4, top_k=2, expert=Gated(width=8))


def training_inputs(rows=2, length=12, seed=3):
    """Two documents in a row, padding behind the second; targets are noise, so that none can be told from tokens."""
    rng = np.random.default_rng(seed)
    index, ends = np.arange(length), np.array([length, length - 2])[:rows, None]
    starts = np.array([5, 7])[:rows, None]
    segment_ids = np.where(index < ends, 1 + (index >= starts), 0)
    return {
        "positions_BT": np.where(index >= starts, index - starts, index + 0 * starts).astype(np.int32),
        "segment_ids_BT": segment_ids.astype(np.int32),
        "weights_BT": ((segment_ids > 0) & (index != starts - 1) & (index != 2)).astype(np.float32),
        "targets_BT": rng.integers(0, 17, (rows, length)).astype(np.int32),
    }


@functools.cache
def compiled(config):
    """The jitted forward pass, all of its output."""

    def run(params, tokens, inputs):
        output = forward(config, params, tokens, taps=["block_output"], **inputs)
        return vars(output)

    jitted = jax.jit(run)
    return lambda *arguments: OutputWithLogits(**jitted(*arguments))


def rms(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(weight, np.float64)


def block_by_hand(p, x, seen):
    """One pre-norm block without positions over the tokens of a row: four query heads, two key heads, SwiGLU."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    y, out = rms(x, p["residual"]["mixer_norm"]["scale"]), np.zeros_like(x)
    for t, head in np.ndindex(len(x), 4):
        q = y[t] @ p["mixer"]["query"][:, head]
        keys = [s for s in range(t + 1) if seen[t] == seen[s]]
        scores = np.array([q @ (y[s] @ p["mixer"]["key"][:, head // 2]) / 2 for s in keys])
        weights = np.exp(scores) / np.exp(scores).sum()
        value = sum(w * (y[s] @ p["mixer"]["value"][:, head // 2]) for w, s in zip(weights, keys, strict=True))
        out[t] += value @ p["mixer"]["output"][head]
    x = x + out
    y = rms(x, p["residual"]["ffn_norm"]["scale"])
    gate = y @ p["ffn"]["gate"]
    return x + (gate / (1 + np.exp(-gate)) * (y @ p["ffn"]["up"])) @ p["ffn"]["down"]


def loss_by_hand(params, tokens, inputs, stream, option):
    """Equations 21 to 25 for every token that has a label, times T; in float64."""
    modules, table = params["multi_token"], np.asarray(params["embedding"]["table"], np.float64)
    unembedding = np.asarray(params["embedding"].get("output", table.T), np.float64)
    segment_ids, counted, targets = (inputs[f"{name}_BT"] for name in ("segment_ids", "weights", "targets"))
    total, length = 0.0, tokens.shape[1]
    for row in range(len(tokens)):
        h = np.asarray(stream[row], np.float64)
        for k in range(1, option.depth + 1):
            p = jax.tree.map(lambda a, k=k: np.asarray(a[k - 1], np.float64), modules)
            joined = np.zeros((length, 16))
            for i in range(length - k):
                both = [rms(h[i], p["stream_norm"]["scale"]), rms(table[tokens[row, i + k]], p["token_norm"]["scale"])]
                joined[i] = np.concatenate(both) @ p["projection"]
            h = block_by_hand(p["block"], joined, segment_ids[row])
            for i in range(length - k):
                if segment_ids[row, i] != segment_ids[row, i + k]:
                    continue
                logits = rms(h[i], p["final_norm"]["scale"]) @ unembedding
                nll = math.log(np.exp(logits).sum()) - logits[targets[row, i + k]]
                total += option.weight / option.depth * counted[row, i + k] * nll
    return total


@pytest.mark.parametrize("changes", [{}, {"unembedding": Untied()}, {"scan_layers": False}, {"remat": "full"}], ids=str)
def test_the_loss_is_that_of_the_equations(small, drawn, tokens, changes):
    config = small(multi_token=DEEP, position=NoPositions(), num_layers=1, **changes)
    params, inputs = drawn(config), training_inputs()
    output = compiled(config)(params, tokens, inputs)
    expected = loss_by_hand(params, tokens, inputs, output.taps["block_output"][0], DEEP)
    assert list(output.losses) == ["multi_token_loss"]
    assert float(output.losses["multi_token_loss"]) == pytest.approx(expected, rel=1e-4)


def test_ahead():
    np.testing.assert_array_equal(shift_left(jnp.array([[1, 2, 3], [4, 5, 6]])), [[2, 3, 0], [5, 6, 0]])


def test_a_model_without_modules_is_the_same_but_for_them(small, tokens):
    """Its parameters, from the same key, and its logits."""
    plain, config = small(), small(multi_token=DEEP)
    start, params = init(plain, jax.random.key(0)), init(config, jax.random.key(0))
    modules = params.pop("multi_token")
    jax.tree.map(np.testing.assert_array_equal, params, start)
    assert modules["projection"].shape == (3, 32, 16)
    assert logical_axes(config)["multi_token"]["projection"] == ("layer", "embed", "embed")
    assert modules["block"]["ffn"]["up"].shape == (3, 16, 24)
    whole = {**params, "multi_token": modules}
    one, other = (compiled(c)(p, tokens, training_inputs()) for c, p in ((plain, params), (config, whole)))
    np.testing.assert_allclose(one.logits_BTV, other.logits_BTV, rtol=1e-5, atol=1e-7)


def test_every_module_learns_and_so_does_the_model(small, drawn, tokens):
    config = small(multi_token=DEEP)
    inputs = training_inputs()
    loss = lambda p: forward(config, p, tokens, **inputs).losses["multi_token_loss"]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(drawn(config))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        if path[0].key == "final_norm":
            assert not leaf.any(), "each module has a norm of its own"
        else:
            assert (np.abs(leaf).reshape(len(leaf), -1).max(axis=1) > 0).any(), path
    for leaf in jax.tree.leaves(gradient["multi_token"]):
        assert (np.abs(leaf).reshape(3, -1).max(axis=1) > 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"residual": PostNorm(), "position": Learned()}, marks=SWEEP),
        pytest.param({"exceptions": (Except(layers="-1", ffn=EXPERTS, mixer=GroupedQuery(num_heads=2)),)}, marks=SWEEP),
    ],
    ids=["plain", "post-norm", "other last layer"],
)
def test_scanned_equals_written_out(small, drawn, tokens, changes):
    config = small(multi_token=DEEP, **changes)
    inputs = training_inputs()

    def gradient(**how):
        one = dataclasses.replace(config, **how)
        run = jax.value_and_grad(lambda p: sum(forward(one, p, tokens, **inputs).losses.values()))
        return jax.jit(run)(drawn(config))

    (loss, expected), (other, found) = gradient(), gradient(scan_layers=False, remat="dots")
    assert float(other) == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), found, expected)


def test_nothing_is_added_where_nothing_is_a_label(small, drawn, tokens):
    config = small(multi_token=MultiToken(depth=2))
    inputs = training_inputs()
    few = inputs | {"weights_BT": np.zeros_like(inputs["weights_BT"])}
    few["weights_BT"][[0, 0, 1, 1], [0, 5, 0, 7]] = 1  # the first token of every document
    assert float(compiled(config)(drawn(config), tokens, few).losses["multi_token_loss"]) == 0
    few["weights_BT"][0, 1] = 1
    assert float(compiled(config)(drawn(config), tokens, few).losses["multi_token_loss"]) > 0


def test_experts_of_modules_are_balanced_with_the_others(small, drawn, tokens):
    ffn = dataclasses.replace(EXPERTS, balance_loss=BalanceLoss(coefficient=0.1), load_bias=LoadBias(rate=0.5))
    config, inputs = small(ffn=ffn, multi_token=MultiToken(depth=2)), training_inputs()
    params = drawn(config)
    output = compiled(config)(params, tokens, inputs)
    rest = {name: values for name, values in params.items() if name != "multi_token"}
    without = compiled(dataclasses.replace(config, multi_token=None))(rest, tokens, inputs)
    assert float(output.losses["balance_loss"]) > float(without.losses["balance_loss"]) > 0
    load = np.asarray(output.measurements["multi_token"]["load"])
    segment_ids, counted = inputs["segment_ids_BT"], inputs["weights_BT"]
    for k in (1, 2):
        labels = ((segment_ids[:, k:] == segment_ids[:, :-k]) * counted[:, k:]).sum()
        assert load[k - 1].sum() == 2 * labels == 2 * output.measurements["multi_token"]["tokens"][k - 1]
    moved = update_load_biases(config, params, output.measurements)
    expected = params["multi_token"]["block"]["ffn"]["load_bias"] + 0.5 * np.sign(load.mean(1, keepdims=True) - load)
    np.testing.assert_allclose(moved["multi_token"]["block"]["ffn"]["load_bias"], expected)
    assert np.any(moved["blocks"]["ffn"]["load_bias"] != params["blocks"]["ffn"]["load_bias"])
    busiest = load.max() / load.sum(1)[load.max(1).argmax()] * 4
    assert float(load_statistics(output.measurements)["expert_load_max"]) >= busiest - 1e-5
