"""State spaces against their recurrence, a token at a time in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from model.context import Context
from model.errors import UserError
from model.norms import LayerNorm
from model.options.tree import check
from model.parameters.maker import FanIn, Normal
from model.positions.absolute import NoPositions
from model.recurrent.state_space import StateSpace, StateSpaceMixer
from model.stack import empty_caches
from model.transformer import abstract_params, forward, init, logical_axes
from tests.tiers import representatives


def by_hand(option):
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731

    def run(w, x):
        def projected(name, x, head):
            return x @ w[name][:, head] + (w[f"{name}_projection_bias"][head] if option.bias else 0)

        def convolved(name, head):
            y = projected(name, x, head)
            if option.convolution is None:
                return silu(y)
            taps, bias = w[f"{name}_filter"][:, head], w[f"{name}_bias"][head] if option.convolution_bias else 0
            rows = [sum(taps[j] * y[t - j] for j in range(min(t + 1, len(taps)))) for t in range(len(y))]
            return silu(np.stack(rows) + bias)

        each, heads = option.num_heads // option.num_groups, []
        for n in range(option.num_heads):
            given, b, c = convolved("value", n), convolved("key", n // each), convolved("query", n // each)
            step = np.log1p(np.exp(projected("step", x, n) + w["decay_bias"][n]))
            state, out = np.zeros((b.shape[1], given.shape[1])), []
            for t in range(len(x)):
                state = np.exp(-np.exp(w["decay_rate"][n]) * step[t]) * state + np.outer(b[t], step[t] * given[t])
                out.append(state.T @ c[t] + w["skip"][n] * given[t])
            heads.append(np.stack(out) * silu(projected("gate", x, n)))
        y = np.zeros((len(x), w["output"].shape[-1])) + (w["output_bias"] if option.bias else 0)
        for g in range(option.num_groups):
            group = np.stack(heads[g * each : (g + 1) * each], axis=1)
            if option.output_norm is not None:
                centre = group.mean((1, 2), keepdims=True) if isinstance(option.output_norm, LayerNorm) else 0
                group = group - centre
                group = group / np.sqrt((group**2).mean((1, 2), keepdims=True) + option.output_norm.epsilon)
                group = group * w["output_norm"]["scale"][g]
                group = group + w["output_norm"]["bias"][g] if "bias" in w["output_norm"] else group
            y += np.einsum("tnp,npd->td", group, w["output"][g * each : (g + 1) * each])
        return y

    return run


OPTIONS = [
    StateSpace(num_heads=2, state_dim=5, chunk=4),
    StateSpace(num_heads=4, num_groups=2, head_dim=3, state_dim=4, convolution=2, output_norm=LayerNorm()),
    StateSpace(num_heads=2, state_dim=3, convolution=None, output_norm=None, chunk=1),
    StateSpace(num_heads=4, num_groups=2, state_dim=3, bias=True, convolution_bias=False),
]


@pytest.mark.parametrize("option", representatives(OPTIONS, OPTIONS[0], OPTIONS[3]), ids=range(4))
def test_layer(maker, against_loop, option):
    against_loop(StateSpaceMixer(option, 8, "float32", maker(Normal())), by_hand(option))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_chunks_equal_the_recurrence(maker, size):
    """They agree to 1e-5 of the largest output over 90 tokens, with decays and steps as initialised."""
    option = StateSpace(num_heads=4, num_groups=2, head_dim=4, state_dim=8, chunk=size)
    graph, state = nnx.split(StateSpaceMixer(option, 8, "float32", maker(FanIn())))
    params = nnx.to_pure_dict(state)
    x = np.random.default_rng(0).standard_normal((1, 90, 8)).astype(np.float32)
    layer = jax.jit(lambda p, x: nnx.merge(graph, p)(x, Context(index_BT=None), None)[0])
    expected = by_hand(option)(jax.tree.map(lambda a: np.asarray(a, np.float64), params), x[0].astype(np.float64))
    np.testing.assert_allclose(layer(params, x)[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_parameters_start_as_in_the_authors_code(maker):
    """A uniform from 1 to 16, the step log-uniform from 0.001 to 0.1, D 1; a norm with 1e-5 (mamba2.py)."""
    option = StateSpace(num_heads=4000, head_dim=1, state_dim=1)
    drawn = nnx.to_pure_dict(nnx.split(StateSpaceMixer(option, 8, "float32", maker(Normal())))[1])
    rates, steps = np.sort(np.exp(drawn["decay_rate"])), np.sort(np.log(np.log1p(np.exp(drawn["decay_bias"]))))
    even = (np.arange(4000) + 0.5) / 4000
    np.testing.assert_allclose(rates, 1 + 15 * even, atol=0.5)
    np.testing.assert_allclose(steps, np.log(0.001) + np.log(100) * even, atol=0.2)
    assert (drawn["skip"] == 1).all()
    assert option.output_norm.epsilon == 1e-5
    assert not any(drawn[f"{name}_bias"].any() for name in ("query", "key", "value"))


MODEL = {
    "mixer": StateSpace(num_heads=4, num_groups=2, state_dim=6, chunk=5),
    "position": NoPositions(),
    "ffn": None,
    "num_layers": 3,
}


def test_cached_equals_full(small, drawn, run, tokens):
    config = small(**MODEL)
    params = drawn(config)
    full = run(config, params, tokens)[0]
    np.testing.assert_allclose(run(small(**MODEL, scan_layers=False), params, tokens)[0], full, rtol=1e-4, atol=1e-5)
    cache, parts = empty_caches(config, 2, 12), []
    for begin, size in ((0, 6), (6, 1), (7, 1), (8, 4)):
        positions = np.broadcast_to(np.arange(begin, begin + size, dtype=np.int32), (2, size))
        some, cache, _ = run(config, params, tokens[:, begin : begin + size], positions_BT=positions, cache=cache)
        parts.append(some)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), full, rtol=1e-4, atol=1e-5)


def test_padding_leaves_the_state_alone(small, drawn, run, tokens):
    config = small(**MODEL)
    params, positions = drawn(config), np.broadcast_to(np.arange(8, dtype=np.int32), (2, 8))
    lengths = np.array([5, 3], np.int32)
    _, cache, _ = run(
        config, params, tokens[:, :8], positions_BT=positions, cache=empty_caches(config, 2, 12), lengths_B=lengths
    )
    for row, length in enumerate(lengths):
        alone, at = tokens[row : row + 1, :length], positions[:1, :length]
        _, expected, _ = run(config, params, alone, positions_BT=at, cache=empty_caches(config, 1, 12))
        for name, array in cache["0"].arrays.items():
            np.testing.assert_allclose(array[row], expected["0"].arrays[name][0], rtol=1e-4, atol=1e-5)


def test_documents_are_isolated(small, drawn, run, tokens):
    config = small(**MODEL)
    params = drawn(config)
    segment_ids = np.array([[1] * 5 + [2] * 7, [1] * 2 + [2] * 9 + [3]], np.int32)
    packed = run(config, params, tokens, segment_ids_BT=segment_ids)[0]
    for row, start, stop in ((0, 0, 5), (0, 5, 12), (1, 11, 12)):
        alone = run(config, params, tokens[row : row + 1, start:stop])[0]
        np.testing.assert_allclose(packed[row, start:stop], alone[0], rtol=1e-4, atol=1e-5)


def test_later_tokens_are_not_seen(small, drawn, tokens):
    config = small(**MODEL)
    changed = tokens.copy()
    changed[:, 7:] = (changed[:, 7:] + 1) % 17
    run = jax.jit(lambda p, t: forward(config, p, t).logits_BTV)
    before, after = (run(drawn(config), t) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 0.01


def test_axes_and_starting_values(small):
    config = small(**MODEL)
    axes, shapes = (f(config)["blocks"]["mixer"] for f in (logical_axes, abstract_params))
    heads, groups = ("layer", "embed", "heads", "head_dim"), ("layer", "embed", None, "head_dim")
    assert {name: (axes[name], shapes[name].shape) for name in ("value", "key", "gate", "query", "step", "skip")} == {
        "value": (heads, (3, 16, 4, 8)),
        "gate": (heads, (3, 16, 4, 8)),
        "key": (groups, (3, 16, 2, 6)),
        "query": (groups, (3, 16, 2, 6)),
        "step": (("layer", "embed", "heads"), (3, 16, 4)),
        "skip": (("layer", "heads"), (3, 4)),
    }
    drawn = jax.jit(lambda: init(config, jax.random.key(0))["blocks"]["mixer"])()
    assert (drawn["skip"] == 1).all()
    assert not drawn["value_bias"].any()
    rate, step = np.exp(drawn["decay_rate"]), np.log1p(np.exp(drawn["decay_bias"]))
    assert 1 <= rate.min() <= rate.max() <= 16
    assert 0.00099 < step.min() <= step.max() < 0.101


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 3}, "mixer.num_groups: 3 does not divide num_heads=4; use one of \\[1, 2, 4\\]"),
        ({"num_heads": 3}, "mixer.num_heads: 3 heads do not divide 2 \\* width=32; change one of them, or set mix"),
        ({"convolution": None, "convolution_bias": False}, "mixer.convolution_bias: there is no convolution to have"),
        ({"convolution": 1}, "mixer.convolution: must span at least 2 tokens, got 1; use None"),
        ({"state_dim": 0}, "mixer.state_dim: must be at least 1, got 0"),
        ({"chunk": 0}, "mixer.chunk: must be at least 1, got 0"),
    ],
)
def test_what_is_refused(small, changes, message):
    option = dataclasses.replace(StateSpace(num_heads=4), **changes)
    with pytest.raises(UserError, match=message):
        check(small(mixer=option, position=NoPositions()), "")
