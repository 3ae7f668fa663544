import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.context import Context
from model.errors import UserError
from model.norms import LayerNorm
from model.options.tree import check
from model.parameters.maker import FanIn, Normal
from model.positions.absolute import NoPositions
from model.recurrent.delta import GatedDelta, GatedDeltaMixer, delta_rule, inverse_unit_lower
from model.recurrent.memory import chunk_decays, merge_chunks, split_chunks
from model.transformer import abstract_params, init, logical_axes


def recurrence(q, k, v, strength, decay):
    """Computes equation 10 of the paper, a token at a time: returns the readings (T, P) of one head."""
    memory, readings = np.zeros((q.shape[1], v.shape[1])), []
    for t in range(len(q)):
        erased = np.eye(len(memory)) - strength[t] * np.outer(k[t], k[t])
        memory = decay[t] * erased @ memory + strength[t] * np.outer(k[t], v[t])
        readings.append(memory.T @ q[t])
    return np.stack(readings)


def by_hand(option):
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    unit = lambda v: v / np.sqrt((v * v).sum() + 1e-6)  # noqa: E731

    def run(w, x):
        def convolved(name, head):
            y = x @ w[name][:, head]
            if option.convolution is None:
                return silu(y)
            taps = w[f"{name}_filter"][:, head]
            return silu(
                np.stack([sum(taps[j] * y[t - j] for j in range(min(t + 1, len(taps)))) for t in range(len(y))])
            )

        def normed(v):
            if option.output_norm is None:
                return v
            if isinstance(option.output_norm, LayerNorm):
                return (v - v.mean()) / np.sqrt(v.var() + 1e-5) * w["output_norm"]["scale"] + w["output_norm"]["bias"]
            return v / np.sqrt((v * v).mean() + 1e-6) * w["output_norm"]["scale"]

        out = np.zeros((len(x), w["output"].shape[-1]))
        for head in range(option.num_heads):
            shared = head // (option.num_heads // option.key_heads)
            q, k = (np.stack([unit(v) for v in convolved(name, shared)]) for name in ("query", "key"))
            strength = 1 / (1 + np.exp(-x @ w["strength"][:, head]))
            decay = np.ones(len(x))
            if option.decay:
                step = np.log1p(np.exp(x @ w["decay"][:, head] + w["decay_bias"][head]))
                decay = np.exp(-np.exp(w["decay_rate"][head]) * step)
            y = recurrence(q / np.sqrt(q.shape[1]), k, convolved("value", head), strength, decay)
            y = np.stack([normed(v) for v in y])
            if option.output_gate:
                y = y * silu(x @ w["gate"][:, head])
            out += y @ w["output"][head]
        return out

    return run


PLAIN = GatedDelta(num_heads=2, decay=False, convolution=None, output_norm=None, output_gate=False, chunk=4)


@pytest.mark.parametrize(
    "option",
    [
        GatedDelta(num_heads=2, chunk=4),
        GatedDelta(num_heads=4, num_key_heads=2, head_dim=3, value_head_dim=5, convolution=2, output_norm=LayerNorm()),
        PLAIN,
        dataclasses.replace(PLAIN, decay=True, chunk=1),
    ],
    ids=range(4),
)
def test_layer(maker, against_loop, option):
    against_loop(GatedDeltaMixer(option, 8, "float32", maker(Normal())), by_hand(option))


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_inverse(size):
    lower = np.tril(np.random.default_rng(0).standard_normal((3, size, size)), -1).astype(np.float32)
    np.testing.assert_allclose(
        inverse_unit_lower(lower), np.linalg.inv(np.eye(size) + lower.astype(float)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", [7, 64])
def test_chunks_equal_the_recurrence_where_keys_are_alike_and_memories_last_too(size):
    """In the second head all keys are the same, write strengths are near 1, and there is no decay."""
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    q, k, v = unit(rng.standard_normal((90, 2, 6))), unit(rng.standard_normal((90, 2, 6))), rng.normal(size=(90, 2, 4))
    strength, log_decay = rng.uniform(0, 1, (90, 2)), -rng.exponential(1.0, (90, 2)) * 10 ** rng.uniform(-2, 2, (90, 2))
    k[:, 1], strength[:, 1], log_decay[:, 1] = k[:1, 1], 0.999, 0
    expected = [recurrence(*(x[:, n] for x in (q, k, v, strength, np.exp(log_decay)))) for n in range(2)]
    parts = [split_chunks(jnp.asarray(x, jnp.float32)[None], size) for x in (q, k, v, strength)]
    decay = chunk_decays(jnp.asarray(log_decay, jnp.float32)[None], size, Context(index_BT=None))
    _, y = jax.jit(delta_rule)(jnp.zeros((1, 2, 6, 4)), *parts, decay)
    np.testing.assert_allclose(merge_chunks(y, 90)[0], np.stack(expected, 1), rtol=1e-4, atol=1e-5)


def test_axes(small):
    config = small(mixer=GatedDelta(num_heads=4, num_key_heads=2, value_head_dim=6), position=NoPositions())
    axes, shapes = logical_axes(config)["blocks"]["mixer"], abstract_params(config)["blocks"]["mixer"]
    norm = axes.pop("output_norm"), shapes.pop("output_norm")
    assert (norm[0]["scale"], norm[1]["scale"].shape) == (("layer", "head_dim"), (2, 6))
    into, taps = ("layer", "embed", "heads", "head_dim"), ("layer", None, "heads", "head_dim")
    one = ("layer", "embed", "heads")
    assert {name: (axes[name], shapes[name].shape) for name in axes} == {
        "query": (into, (2, 16, 2, 4)),
        "key": (into, (2, 16, 2, 4)),
        "value": (into, (2, 16, 4, 6)),
        "gate": (into, (2, 16, 4, 6)),
        "strength": (one, (2, 16, 4)),
        "decay": (one, (2, 16, 4)),
        "decay_rate": (("layer", "heads"), (2, 4)),
        "decay_bias": (("layer", "heads"), (2, 4)),
        "query_filter": (taps, (2, 4, 2, 4)),
        "key_filter": (taps, (2, 4, 2, 4)),
        "value_filter": (taps, (2, 4, 4, 6)),
        "output": (("layer", "heads", "head_dim", "embed"), (2, 4, 6, 16)),
    }


@pytest.mark.parametrize("scheme", [Normal(), FanIn()], ids=repr)
def test_where_decays_and_filters_start(small, scheme):
    config = small(mixer=GatedDelta(num_heads=64, head_dim=4), position=NoPositions(), initialization=scheme)
    drawn = jax.jit(lambda: init(config, jax.random.key(0))["blocks"]["mixer"])()
    rate, step = np.exp(drawn["decay_rate"]), np.log1p(np.exp(drawn["decay_bias"]))
    assert 1 <= rate.min() < 1.5
    assert 15.5 < rate.max() <= 16
    np.testing.assert_allclose(np.median(rate), 8.5, atol=1.5)
    assert 0.00099 < step.min() < 0.0013
    assert 0.08 < step.max() < 0.101
    np.testing.assert_allclose(np.median(step), 0.01, rtol=0.5)
    assert drawn["key_filter"].std() == pytest.approx(0.5, rel=0.1)  # 1 / sqrt(4 tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_heads": 3}, "mixer.num_key_heads: 3 does not divide num_heads=4; use one of \\[1, 2, 4\\]"),
        ({"num_heads": 3}, "mixer.num_heads: 3 heads do not divide width=16"),
        ({"convolution": 1}, "mixer.convolution: must span at least 2 tokens, got 1; use None"),
        ({"value_head_dim": 0}, "mixer.value_head_dim: must be at least 1, got 0"),
        ({"chunk": 0}, "mixer.chunk: must be at least 1, got 0"),
    ],
)
def test_what_is_refused(small, changes, message):
    option = GatedDelta(**{"num_heads": 4, **changes})
    with pytest.raises(UserError, match=message):
        check(small(mixer=option, position=NoPositions()), "")
