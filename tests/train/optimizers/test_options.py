"""Every optimizer against its published equations, written out in float64 NumPy."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.errors import UserError
from model.options.annotations import fields_of
from model.options.tree import check
from model.parameters.names import flatten
from model.parameters.specs import Spec
from train.optimizers.options import (
    SGD,
    Adafactor,
    AdamW,
    Lion,
    Muon,
    ScheduleFreeAdamW,
    build,
    decay_mask,
    evaluation_params,
    set_learning_rate,
)

SHAPES = {
    "embedding.table": (7, 4),
    "blocks.ffn.up": (2, 4, 6),
    "blocks.mixer.output": (2, 3, 2, 4),
    "blocks.mixer.query_bias": (2, 3, 2),
    "final_norm.scale": (4,),
}
SPECS = {
    "embedding.table": Spec(role="embedding", axes=("vocab", "embed"), inputs=(0,), outputs=(1,), initializer=None),
    "blocks.ffn.up": Spec(role="value", axes=("layer", "embed", "ffn"), inputs=(1,), outputs=(2,), initializer=None),
    "blocks.mixer.output": Spec(
        role="residual", axes=("layer", "heads", "head_dim", "embed"), inputs=(1, 2), outputs=(3,), initializer=None
    ),
    "blocks.mixer.query_bias": Spec(role="bias", axes=("layer", "heads", "head_dim"), initializer=None),
    "final_norm.scale": Spec(role="scale", axes=("embed",), initializer=None),
}
DECAYED = {"embedding.table", "blocks.ffn.up", "blocks.mixer.output"}
RATES = (0.1, 0.05, 0.2, 0.02)
RANDOM = np.random.default_rng(0)
START = {name: RANDOM.normal(size=shape) for name, shape in SHAPES.items()}
GRADS = [{name: RANDOM.normal(size=shape) for name, shape in SHAPES.items()} for _ in RATES]


def nested(values):
    """{"a.b": x} as {"a": {"b": x}}, as a model's parameters lie."""
    tree = {}
    for name, value in values.items():
        *above, last = name.split(".")
        functools.reduce(lambda node, key: node.setdefault(key, {}), above, tree)[last] = value
    return tree


def run(option, start=START, grads=GRADS, specs=SPECS, dtype=jnp.float32):
    """The parameters after one step at each of RATES, by name, and the state of the optimizer."""
    optimizer = build(option, nested(specs))
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), nested(start))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads, rate):
        updates, state = optimizer.update(grads, set_learning_rate(state, rate), params)
        return optax.apply_updates(params, updates), state

    for rate, grad in zip(RATES, grads, strict=True):
        params, state = step(params, state, jax.tree.map(lambda x: jnp.asarray(x, dtype), nested(grad)), rate)
    return params, state


def each(rule, decay=0.0):
    """Runs p -= rate * (rule(g, memory, t, p) + decay * p) on every parameter alone; decay where it is due."""
    end = {}
    for name, p in START.items():
        memory = {}
        for t, (rate, grads) in enumerate(zip(RATES, GRADS, strict=True), start=1):
            update = rule(name, grads[name], memory, t, p)
            p = p - rate * (update + (decay if name in DECAYED else 0.0) * p)
        end[name] = p
    return end


def assert_same(params, expected, rtol=2e-5):
    for name, value in flatten(params).items():
        np.testing.assert_allclose(value, expected[name], rtol=rtol, atol=rtol, err_msg=name)


def adam(g, memory, t, b1, b2, epsilon, nesterov=False):
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    m = memory["m"] / (1 - b1**t)
    if nesterov:
        m = b1 * memory["m"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return m / (np.sqrt(memory["v"] / (1 - b2**t)) + epsilon)


def test_adamw():
    expected = each(lambda name, g, memory, t, p: adam(g, memory, t, 0.8, 0.9, 1e-3), decay=0.3)
    assert_same(run(AdamW(b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.3))[0], expected)


def test_lion():
    def lion(name, g, memory, t, p):
        m = memory.get("m", 0)
        memory["m"] = 0.95 * m + 0.05 * g
        return np.sign(0.7 * m + 0.3 * g)

    assert_same(run(Lion(b1=0.7, b2=0.95, weight_decay=0.2))[0], each(lion, decay=0.2))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(momentum, nesterov):
    def sgd(name, g, memory, t, p):
        memory["m"] = g + momentum * memory.get("m", 0)
        return g + momentum * memory["m"] if nesterov else memory["m"]

    assert_same(run(SGD(momentum=momentum, nesterov=nesterov, weight_decay=0.1))[0], each(sgd, decay=0.1))


def rms(x):
    return np.sqrt(np.mean(x**2))


@pytest.mark.parametrize("scale_by_parameter", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.6])
def test_adafactor_small(momentum, scale_by_parameter):
    """Shazeer, Stern 2018, algorithm 4 without factors: too small to be worth them."""

    def adafactor(name, g, memory, t, p):
        decay = 1 - t**-0.7
        memory["v"] = decay * memory.get("v", 0) + (1 - decay) * (g**2 + 1e-30)
        u = g / np.sqrt(memory["v"])
        u = u / max(1, rms(u))
        u = u * max(rms(p), 1e-3) if scale_by_parameter else u
        if momentum is not None:
            u = memory["m"] = momentum * memory.get("m", 0) + (1 - momentum) * u
        return u

    option = Adafactor(decay_rate=0.7, momentum=momentum, scale_by_parameter=scale_by_parameter, weight_decay=0.2)
    assert_same(run(option)[0], each(adafactor, decay=0.2))


def test_adafactor_factors_large_matrices():
    """Algorithm 4 itself: the second moment of a matrix is the product of its rows' and columns' means."""
    p, grads = RANDOM.normal(size=(128, 160)), [RANDOM.normal(size=(128, 160)) for _ in RATES]
    names = {"table": SPECS["embedding.table"]}
    params, state = run(Adafactor(), {"table": p}, [{"table": g} for g in grads], names)
    row, column = np.zeros(128), np.zeros(160)
    for t, (rate, g) in enumerate(zip(RATES, grads, strict=True), start=1):
        decay = 1 - t**-0.8
        row = decay * row + (1 - decay) * np.mean(g**2 + 1e-30, axis=1)
        column = decay * column + (1 - decay) * np.mean(g**2 + 1e-30, axis=0)
        u = g / np.sqrt(np.outer(row, column) / row.mean())
        p = p - rate * u / max(1, rms(u))
    np.testing.assert_allclose(params["table"], p, rtol=1e-4, atol=1e-4)
    assert sum(x.size for x in jax.tree.leaves(state)) < 1000  # not 128 * 160


def orthogonalised(x):
    """Jordan 2024: five steps of the quintic Newton-Schulz iteration from x / |x|."""
    x = x / (np.linalg.norm(x) + 1e-8)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(5):
        a = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * a + 2.0315 * a @ a) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


def test_muon():
    as_matrix = {"blocks.ffn.up": (4, 6), "blocks.mixer.output": (6, 4)}

    def muon(name, g, memory, t, p):
        if name not in as_matrix:
            return adam(g, memory, t, 0.8, 0.9, 1e-8, nesterov=True)
        memory["m"] = 0.7 * memory.get("m", 0) + 0.3 * g
        ahead = 0.7 * memory["m"] / (1 - 0.7 ** (t + 1)) + 0.3 * g / (1 - 0.7**t)
        layers = [orthogonalised(layer.reshape(as_matrix[name])).reshape(layer.shape) for layer in ahead]
        return np.stack(layers) * np.sqrt(6) * 0.3  # the larger side is 6 for both

    option = Muon(momentum=0.7, rms=0.3, adam_b1=0.8, adam_b2=0.9, weight_decay=0.2)
    assert_same(run(option)[0], each(muon, decay=0.2), rtol=2e-4)


def test_muon_updates_are_orthogonal_layer_by_layer():
    start = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    end = flatten(run(Muon(rms=1.0), start)[0])
    first = flatten(run(Muon(rms=1.0), start, [*[dict.fromkeys(SHAPES, 0.0) | start for _ in RATES[:-1]], GRADS[0]])[0])
    assert not np.allclose(end["blocks.ffn.up"], 0)
    for layer in np.asarray(first["blocks.ffn.up"]) / (RATES[-1] * np.sqrt(6)):
        singular = np.linalg.svd(layer, compute_uv=False)
        assert singular.min() > 0.6
        assert singular.max() < 1.3
    # The same matrix in both layers gets the same update: layers are not mixed.
    twice = {name: np.stack([g[0], g[0]]) if name.startswith("blocks") else g for name, g in GRADS[0].items()}
    both = flatten(run(Muon(), start, [twice] * len(RATES))[0])["blocks.mixer.output"]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-5)


def test_schedule_free_adamw():
    """Defazio et al. 2024, algorithm 1: gradients at y, steps of z, averages x weighted by the squared rate."""
    option = ScheduleFreeAdamW(b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.1)
    params, state = run(option)
    trained, averaged = {}, {}
    for name, start in START.items():
        x = y = z = start
        memory, total, largest = {}, 0.0, 0.0
        for t, (rate, grads) in enumerate(zip(RATES, GRADS, strict=True), start=1):
            decay = 0.1 if name in DECAYED else 0.0
            z = z - rate * (adam(grads[name], memory, t, 0.0, 0.9, 1e-3) + decay * y)
            largest = max(largest, rate)
            total += largest**2
            share = largest**2 / total
            x = (1 - share) * x + share * z
            y = 0.8 * x + 0.2 * z
        trained[name], averaged[name] = y, x
    assert_same(params, trained, rtol=1e-4)
    assert_same(evaluation_params(option, state, params), averaged, rtol=1e-4)


@pytest.mark.parametrize("option", [AdamW(), Lion(), SGD(), Muon(), Adafactor()])
def test_others_evaluate_what_they_train(option):
    params, state = run(option)
    assert evaluation_params(option, state, params) is params


# For every field of every optimizer, a value that is not its default; `decay_never` has an effect only with a decay.
OTHER_VALUES = {
    "weight_decay": 0.1,
    "b1": 0.5,
    "b2": 0.5,
    "epsilon": 0.1,
    "decay_rate": 0.5,
    "momentum": 0.5,
    "scale_by_parameter": True,
    "num_iterations": 2,
    "rms": 0.1,
    "adam_b1": 0.5,
    "adam_b2": 0.5,
    "nesterov": True,
}
OPTIMIZERS = (AdamW, Adafactor, Lion, Muon, SGD, ScheduleFreeAdamW)


@functools.cache
def end_of(option):
    """All parameters after the steps, in one row."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(run(option)[0])])


@pytest.mark.parametrize(
    ("cls", "field"),
    [(cls, field) for cls in OPTIMIZERS for field in fields_of(cls)],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_every_field_is_live(cls, field):
    if field in ("decay_never", "decay_also"):
        one = cls(weight_decay=0.1)
        other = dataclasses.replace(one, **{field: ("embedding" if field == "decay_never" else "scale",)})
    else:
        one, other = cls(), dataclasses.replace(cls(), **{field: OTHER_VALUES[field]})
    assert not np.allclose(end_of(one), end_of(other), rtol=1e-5, atol=1e-6)


def decayed_by(**fields):
    return {name for name, decays in flatten(decay_mask(AdamW(**fields), nested(SPECS))).items() if decays}


def test_decay_goes_by_role_and_what_the_option_adds_or_takes_away():
    assert decayed_by() == DECAYED
    assert decayed_by(decay_never=("embedding",)) == DECAYED - {"embedding.table"}
    assert decayed_by(decay_never=("blocks.ffn.*", "residual")) == {"embedding.table"}
    assert decayed_by(decay_also=("bias", "final_norm.scale")) == set(SPECS)
    assert decayed_by(decay_also=("*",), decay_never=("*.scale",)) == set(SPECS) - {"final_norm.scale"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"decay_never": ("*.scalle",)}, "decay_never: '*.scalle' is not a role, and no trained parameter"),
        ({"decay_also": ("gains",)}, "decay_also: 'gains' is not a role.*did you mean 'gain'"),
        ({"decay_also": ("load_bias",)}, "decay_also: 'load_bias' is not a role"),
        (
            {"decay_never": ("blocks.ffn.load_bias",)},
            "decay_never: 'blocks.ffn.load_bias' is not a role, and no trained",
        ),
    ],
)
def test_entries_that_name_nothing_are_refused(fields, words):
    specs = nested(SPECS | {"blocks.ffn.load_bias": Spec(role="load_bias", axes=("layer", "expert"), initializer=None)})
    ((field, message),) = AdamW(**fields).problems_with(specs)
    assert re.match(words.replace("*.s", r"\*\.s"), f"{field}: {message}")


def test_a_role_that_a_model_does_not_have_and_names_that_it_has_are_accepted():
    option = AdamW(decay_never=("sink", "embedding", "blocks.*"), decay_also=("final_norm.scale",))
    assert not list(option.problems_with(nested(SPECS)))


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_decay_shrinks_what_the_mask_names_and_nothing_else(cls):
    still = [{name: np.zeros(shape) for name, shape in SHAPES.items()}] * len(RATES)
    params, _ = run(cls(weight_decay=0.5), grads=still)
    shrunk = np.prod([1 - 0.5 * rate for rate in RATES])
    for name, value in flatten(params).items():
        if name not in DECAYED:
            np.testing.assert_allclose(value, START[name], rtol=1e-6)
        elif cls is ScheduleFreeAdamW:
            assert np.all(np.abs(value) < np.abs(START[name]))
        else:
            np.testing.assert_allclose(value, START[name] * shrunk, rtol=1e-5)


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_parameters_keep_their_format(cls):
    params, _ = run(cls(weight_decay=0.1), dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (AdamW(weight_decay=-1.0), "weight_decay: must be 0 or more, got -1.0"),
        (AdamW(b2=1.0), "b2: must be at least 0 and below 1, got 1.0"),
        (AdamW(epsilon=0.0), "epsilon: must be above 0, got 0.0"),
        (SGD(momentum=1.5), "momentum: must be at least 0"),
        (Muon(num_iterations=0), "num_iterations: must be at least 1, got 0"),
        (Muon(rms=0.0), "rms: must be above 0, got 0.0"),
        (ScheduleFreeAdamW(b1=0.0), "b1: interpolates between two sequences"),
    ],
)
def test_values_without_sense_are_refused(option, words):
    with pytest.raises(UserError, match=words):
        check(option)
