"""Layers that see the keys and values of an earlier layer, against a model written out in NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.patterns import SlidingWindow
from model.cost import forward_flops
from model.errors import UserError
from model.feedforward.mlp import Gated
from model.layers import Except
from model.norms import RMSNorm
from model.options.tree import check
from model.positions.absolute import NoPositions
from model.stack import empty_caches
from model.transformer import abstract_params, forward
from tests.tiers import representatives

OWN = GroupedQuery(num_heads=4, num_kv_heads=2, qk_norm=QKNorm(), value_norm=RMSNorm(scale="none"))
WINDOW = SlidingWindow(size=4)


def taking(layer, own=OWN):
    """The attention of a layer that sees the keys of another one."""
    return dataclasses.replace(own, value_norm=None, kv_from_layer=layer)


# Three layers alike, of which the second is not the last one that is scanned; one that takes from it, two from another.
MIXED = {
    "num_layers": 6,
    "mixer": OWN,
    "exceptions": (Except(layers="3", mixer=taking(1)), Except(layers="4:", mixer=taking(2))),
    "position": NoPositions(),
}


def by_layer(config, params):
    """The parameters of every layer, from stacks by the number of their first layer."""
    stacks, found = params["blocks"], [None] * config.num_layers
    names = sorted(map(int, stacks))
    assert names == [0, 3, 4]
    for name, end in zip(names, [*names[1:], config.num_layers], strict=True):
        for i in range(name, end):
            found[i] = jax.tree.map(lambda a, i=i - name: np.asarray(a[i], np.float64), stacks[str(name)])
    return found


def logits_by_hand(config, params, tokens):
    """The model over one sequence."""

    def norm(x, scale=1.0):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale

    table = np.asarray(params["embedding"]["table"], np.float64)
    x, keys, values = table[tokens], {}, {}
    for number, w in enumerate(by_layer(config, params)):
        read, mixer, out = norm(x, w["residual"]["mixer_norm"]["scale"]), w["mixer"], np.zeros_like(x)
        source = {3: 1, 4: 2, 5: 2}.get(number, number)
        if source == number:
            keys[number] = norm(np.einsum("td,dkh->tkh", read, mixer["key"]), mixer["key_norm"]["scale"])
            values[number] = norm(np.einsum("td,dkh->tkh", read, mixer["value"]))
        for head in range(4):
            q = norm(read @ mixer["query"][:, head], mixer["query_norm"]["scale"])
            k, v = keys[source][:, head // 2], values[source][:, head // 2]
            for t in range(len(tokens)):
                e = np.exp(q[t] @ k[: t + 1].T / math.sqrt(4))
                out[t] += e / e.sum() @ v[: t + 1] @ mixer["output"][head]
        x = x + out
        read, f = norm(x, w["residual"]["ffn_norm"]["scale"]), w["ffn"]
        gate = read @ f["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (read @ f["up"])) @ f["down"]
    return norm(x, np.asarray(params["final_norm"]["scale"], np.float64)) @ table.T


def test_layer(small, drawn, run, tokens):
    config = small(**MIXED)
    params = drawn(config)
    expected = np.stack([logits_by_hand(config, params, row) for row in tokens])
    np.testing.assert_allclose(run(config, params, tokens)[0], expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_layer_that_has_the_keys(small, drawn, tokens):
    """The derivative along one direction of its key matrix, against a difference of the model written out."""
    config = small(**MIXED)
    params, rng = drawn(config), np.random.default_rng(0)
    direction, towards = rng.normal(size=(16, 2, 4)), rng.normal(size=(12, 17))
    slope = jax.jit(jax.grad(lambda p: jnp.sum(forward(config, p, tokens[:1]).logits_BTV[0] * towards)))(params)

    def moved(by):
        keys = np.array(params["blocks"]["0"]["mixer"]["key"], np.float64)
        keys[1] += by * direction
        first = params["blocks"]["0"]
        first = {**first, "mixer": {**first["mixer"], "key": keys}}
        return np.sum(
            logits_by_hand(config, {**params, "blocks": params["blocks"] | {"0": first}}, tokens[0]) * towards
        )

    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    got = np.sum(np.asarray(slope["blocks"]["0"]["mixer"]["key"][1], np.float64) * direction)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


@pytest.mark.parametrize("pattern", representatives([None, WINDOW], WINDOW), ids=["all keys", "a ring"])
def test_scanned_written_out_recomputed_and_cached(small, drawn, run, tokens, pattern):
    changes = dict(MIXED)
    if pattern is not None:
        own = dataclasses.replace(OWN, pattern=pattern)
        exceptions = (Except(layers="3", mixer=taking(1, own)), Except(layers="4:", mixer=taking(2, own)))
        changes |= {"mixer": own, "exceptions": exceptions}
    config = small(**changes)
    params = drawn(config)
    full = run(config, params, tokens)[0]
    for same in ({"scan_layers": False}, {"remat": "full"}):
        np.testing.assert_allclose(run(small(**changes | same), params, tokens)[0], full, rtol=1e-4, atol=1e-4)
    cache, parts = empty_caches(config, 2, 12), []
    assert list(cache) == ["0", "1", "2"]  # the others have none
    for begin, size in ((0, 7), (7, 1), (8, 4)):
        positions = np.broadcast_to(np.arange(begin, begin + size, dtype=np.int32), (2, size))
        some, cache, _ = run(config, params, tokens[:, begin : begin + size], positions_BT=positions, cache=cache)
        parts.append(some)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), full, rtol=1e-4, atol=1e-4)


def test_parameters_and_cost(small):
    """A layer that takes keys has none of the matrices, and none of their products."""
    mixer = abstract_params(small(**MIXED))["blocks"]["4"]["mixer"]
    assert sorted(mixer) == ["output", "query", "query_norm"]
    biased = dataclasses.replace(OWN, qkv_bias=True)
    changes = MIXED | {"mixer": biased, "exceptions": (Except(layers="1:", mixer=taking(0, biased)),)}
    assert sorted(abstract_params(small(**changes))["blocks"]["1"]["mixer"]) == [
        "output",
        "query",
        "query_bias",
        "query_norm",
    ]
    plain = small(**MIXED | {"exceptions": ()})
    assert forward_flops(plain, 5) - forward_flops(small(**MIXED), 5) == 3 * 2 * 5 * 16 * 2 * (2 * 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": taking(0)}, "mixer.kv_from_layer: must be the number of a layer before layer 0"),
        (
            {"exceptions": (Except(layers="1", mixer=taking(1)),)},
            "exceptions.0.mixer.kv_from_layer: must be the number",
        ),
        ({"exceptions": (Except(layers="1", mixer=taking(-1)),)}, "the first is 0; got -1"),
        (
            {"num_layers": 3, "exceptions": (Except(layers="1", mixer=taking(0)), Except(layers="2", mixer=taking(1)))},
            "exceptions.1.mixer.kv_from_layer: layer 1 has no keys and values of its own",
        ),
        (
            {"exceptions": (Except(layers="0", mixer=None), Except(layers="1", mixer=taking(0)))},
            "layer 0 has no keys and values of its own",
        ),
        (
            {"exceptions": (Except(layers="1", mixer=dataclasses.replace(taking(0), num_kv_heads=1)),)},
            "layer 0 has other numbers or widths of key heads",
        ),
        (
            {"exceptions": (Except(layers="1", mixer=dataclasses.replace(taking(0), pattern=WINDOW)),)},
            "layer 0 has another pattern",
        ),
        (
            {"exceptions": (Except(layers="1", mixer=dataclasses.replace(OWN, kv_from_layer=0)),)},
            "exceptions.0.mixer.value_norm: the layer has no values of its own",
        ),
    ],
)
def test_clashes(small, changes, message):
    config = small(**{"mixer": OWN, "ffn": Gated(width=8)} | changes)
    with pytest.raises(UserError, match=message):
        check(config, "model")
