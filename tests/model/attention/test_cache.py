import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import cache as kv_cache
from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.attention.patterns import BlockSparse, Chunked, Fixed, SlidingWindow, Strided
from model.attention.value_residual import ValueResidual
from model.feedforward.balance import LoadBias
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.feedforward.routing import Groups, SigmoidRouter
from model.layers import Except
from model.norms import LayerNorm, RMSNorm
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.query_scale import LogTemperature
from model.positions.relative import RelativeBias
from model.positions.rotary import Rotary
from model.positions.scaling import NTK, DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, YaRN
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.memory import State
from model.recurrent.state_space import StateSpace
from model.residual import HyperConnections, Multipliers, Parallel, PostNorm, Reordered, Sandwich
from model.stack import empty_caches
from model.vocabulary.embedding import Untied


def test_empty():
    cache = kv_cache.empty(2, 5, 4, 6, "bfloat16")
    assert cache.k.shape == cache.v.shape == (2, 5, 4, 6)
    assert cache.k.dtype == cache.v.dtype == jnp.bfloat16
    assert not cache.k.any()
    assert not cache.v.any()


def test_write_puts_each_row_at_its_own_slots_and_drops_what_lies_past_the_end():
    layer = kv_cache.Cache(k=jnp.full((2, 4, 1, 1), -1.0), v=jnp.full((2, 4, 1, 1), -2.0))
    k = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])[..., None, None]
    written = kv_cache.write(layer, k, 10 * k, np.array([[0, 1], [3, 4]]))
    np.testing.assert_array_equal(written.k[..., 0, 0], [[1, 2, -1, -1], [-1, -1, -1, 3]])
    np.testing.assert_array_equal(written.v[..., 0, 0], [[10, 20, -2, -2], [-2, -2, -2, 30]])


def test_write_keeps_the_dtype_of_the_cache():
    layer = kv_cache.Cache(k=jnp.zeros((1, 2, 1, 1), jnp.bfloat16), v=jnp.zeros((1, 2, 1, 1), jnp.bfloat16))
    assert (
        kv_cache.write(layer, jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)), np.array([[1]])).k.dtype == jnp.bfloat16
    )


CONFIGS = {
    "rotary": {"position": Rotary()},
    "learned": {
        "position": Learned(offset=2),
        "norm": LayerNorm(),
        "embedding_norm": RMSNorm(),
        "ffn": MLP(width=24, bias=True),
    },
    "sinusoidal": {"position": Sinusoidal(), "residual": PostNorm(), "scan_layers": False},
    "none": {
        "position": NoPositions(),
        "attention": GroupedQuery(
            num_heads=4, num_kv_heads=1, qkv_bias=True, output_bias=True, qk_norm=QKNorm(), logit_softcap=2.0
        ),
    },
    "local and global": {
        "num_layers": 5,
        "attention": GroupedQuery(num_heads=4, pattern=SlidingWindow(size=3)),
        "exceptions": (
            Except(layers="1::2", attention=GroupedQuery(num_heads=2, num_kv_heads=1), position=Rotary(theta=100.0)),
            Except(layers="-1", attention=GroupedQuery(num_heads=2, pattern=Chunked(size=4)), position=NoPositions()),
        ),
    },
    "latent": {
        "num_layers": 3,
        "attention": Latent(num_heads=3, kv_rank=5, query_rank=6, head_dim=4, rotary_head_dim=2, value_head_dim=6),
        "exceptions": (
            Except(layers="1", attention=GroupedQuery(num_heads=2)),
            Except(layers="2", position=ALiBi()),
        ),
    },
    "gated": {
        "attention": GroupedQuery(
            num_heads=4, sinks=True, output_gate="channel", qk_norm=QKNorm(over="projection", after_positions=True)
        )
    },
    "value residuals": {
        "num_layers": 3,
        "attention": GroupedQuery(num_heads=4, num_kv_heads=2, value_residual=ValueResidual(trained=True)),
    },
    "a sublayer alone": {
        "num_layers": 4,
        "exceptions": (Except(layers="1::2", ffn=None), Except(layers="2", attention=None)),
    },
    "no mixer": {"position": NoPositions(), "attention": None},
    "temperature": {
        "num_layers": 4,
        "exceptions": (
            Except(
                layers="3::4",
                attention=GroupedQuery(num_heads=4, temperature=LogTemperature(floor=3, scale=0.7)),
                position=NoPositions(),
            ),
        ),
    },
    "sandwich": {
        "position": Rotary(scaling=YaRN(factor=4.0, original_length=6)),
        "residual": Sandwich(),
        "norm": RMSNorm(scale="zero"),
        "layer_scale": 0.3,
        "multipliers": Multipliers(embedding=2.0, residual=0.7, logits=0.5),
    },
    "reordered": {
        "position": Rotary(
            scaling=Llama3Scaling(factor=4.0, low_frequency_factor=0.5, high_frequency_factor=4.0, original_length=20)
        ),
        "residual": Reordered(),
        "norm": LayerNorm(scale=False),
        "unembedding": Untied(bias=True),
    },
    "parallel": {"position": Rotary(scaling=NTK(factor=2.0)), "residual": Parallel(shared_norm=False)},
    "hyper-connections": {"residual": HyperConnections(streams=3), "num_layers": 3},
    "linear biases": {
        "num_layers": 3,
        "position": ALiBi(),
        "attention": GroupedQuery(num_heads=6, num_kv_heads=2, head_dim=4, logit_softcap=2.0),
        "exceptions": (
            Except(layers="1", position=Rotary()),
            Except(layers="2", position=ALiBi(scale=0.5, rounded=True)),
        ),
    },
    "trained biases": {
        "num_layers": 3,
        "position": RelativeBias(buckets=6, distance=9),
        "exceptions": (
            Except(
                layers="1",
                attention=Latent(num_heads=3, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6),
            ),
            Except(layers="2", position=NoPositions()),
        ),
    },
    "partial": {"position": Rotary(fraction=0.5, interleaved=True, scaling=LinearScaling(factor=2.0))},
    "up to the original length": {
        "position": Rotary(theta=9.0, scaling=DynamicNTK(factor=4.0, original_length=12)),
        "num_layers": 3,
        "exceptions": (
            Except(
                layers="1",
                position=Rotary(
                    scaling=LongRoPE(short_factors=(1.5, 2.0), long_factors=(9.0, 9.0), original_length=12, factor=2.0)
                ),
            ),
        ),
    },
    "experts": {
        "num_layers": 3,
        "ffn": Experts(num_experts=6, top_k=2, expert=Gated(width=8), shared=Shared(ffn=MLP(width=8))),
        "exceptions": (
            Except(layers=":1", ffn=MLP(width=24)),
            Except(
                layers="2",
                ffn=Experts(
                    num_experts=6,
                    top_k=2,
                    expert=Gated(width=8),
                    router=SigmoidRouter(groups=Groups(count=3, kept=2)),
                    load_bias=LoadBias(),
                ),
            ),
        ),
    },
    "recurrent and attention": {
        "num_layers": 5,
        "attention": GatedDelta(num_heads=4, num_key_heads=2, value_head_dim=3, chunk=3),
        "exceptions": (
            Except(layers="1", attention=GroupedQuery(num_heads=4, pattern=SlidingWindow(size=3))),
            Except(layers="-1", attention=LinearAttention(num_heads=2, chunk=4)),
        ),
    },
    "state space": {
        "num_layers": 3,
        "attention": StateSpace(num_heads=4, num_groups=2, state_dim=6, chunk=3),
        "exceptions": (Except(layers="1", attention=GroupedQuery(num_heads=4)), Except(layers="::2", ffn=None)),
    },
    "recurrent": {
        "num_layers": 3,
        "position": Learned(),
        "attention": LSTM(num_heads=2, head_dim=5),
        "exceptions": (Except(layers="1", attention=GRU()),),
    },
    "sparse": {
        "num_layers": 3,
        "attention": GroupedQuery(num_heads=4, pattern=Strided(stride=3)),
        "exceptions": (
            Except(layers="1", attention=GroupedQuery(num_heads=4, pattern=Fixed(stride=4, summaries=2))),
            Except(layers="2", attention=GroupedQuery(num_heads=4, pattern=BlockSparse(block=2))),
        ),
    },
}


def decode(run, config, params, tokens, steps, slots=14):
    """Logits of the tokens, fed to a cache in chunks of the sizes given."""
    cache = empty_caches(config, len(tokens), slots)
    logits, begin = [], 0
    for size in steps:
        positions = np.broadcast_to(np.arange(begin, begin + size, dtype=np.int32), (len(tokens), size))
        some, cache, _ = run(config, params, tokens[:, begin : begin + size], positions_BT=positions, cache=cache)
        logits.append(some)
        begin += size
    return np.concatenate(logits, axis=1), cache


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_full(small, drawn, run, tokens, name):
    """Token by token from nothing, a chunk of several, token by token to the end."""
    config = small(**CONFIGS[name])
    params = drawn(config)
    full = run(config, params, tokens)[0]
    cached, cache = decode(run, config, params, tokens, [1, 5, *[1] * 6])
    np.testing.assert_allclose(cached, full, rtol=1e-4, atol=2e-5)
    arrays = [jax.tree.leaves(stack) for stack in cache.values()]
    assert sum(len(first) for first, *_ in arrays) == sum(layer.attention is not None for layer in config.layers)
    slots = [jax.tree.leaves(stack) for stack in cache.values() if not isinstance(stack, State)]
    for stored in itertools.chain.from_iterable(slots):
        assert np.abs(stored[:, :, 11]).min() > 0
        assert not stored[:, :, 12:].any()


@pytest.mark.parametrize("name", ["rotary", "learned"])
def test_rows_of_different_lengths(small, drawn, run, tokens, name):
    """Prefilled together, padded on the right; then each row goes on from its own length."""
    config = small(**CONFIGS[name])
    params = drawn(config)
    full = np.asarray(run(config, params, tokens)[0])
    lengths = np.array([3, 7])
    padded = np.where(np.arange(7) < lengths[:, None], tokens[:, :7], 16).astype(np.int32)
    logits, cache = decode(run, config, params, padded, [7])
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row, :length], full[row, :length], rtol=1e-4, atol=2e-5)
    for step in range(5):
        at = lengths + step
        positions = at[:, None].astype(np.int32)
        logits, cache, _ = run(config, params, tokens[[0, 1], at][:, None], positions_BT=positions, cache=cache)
        np.testing.assert_allclose(np.asarray(logits)[:, 0], full[[0, 1], at], rtol=1e-4, atol=2e-5)


def test_what_lies_in_later_slots_is_never_seen(small, drawn, run, tokens):
    config = small()
    params = drawn(config)
    cache = empty_caches(config, 2, 14)
    rubbish = jax.tree.map(lambda x: x + 1e4, cache)
    positions = np.broadcast_to(np.arange(5, dtype=np.int32), (2, 5))
    for clean, dirty in zip(
        run(config, params, tokens[:, :5], positions_BT=positions, cache=cache)[0],
        run(config, params, tokens[:, :5], positions_BT=positions, cache=rubbish)[0],
        strict=True,
    ):
        np.testing.assert_array_equal(clean, dirty)


@pytest.mark.parametrize(
    "scaling",
    [
        DynamicNTK(factor=4.0, original_length=5),
        LongRoPE(short_factors=(1.0, 1.0), long_factors=(3.0, 5.0), original_length=5, factor=4.0),
    ],
    ids=lambda scaling: type(scaling).__name__,
)
def test_keys_stay_as_they_were_turned_when_they_were_read(small, drawn, run, tokens, scaling):
    """Past the original length a cache equals the whole where it is filled at once, and not token by token."""
    config = small(position=Rotary(theta=9.0, scaling=scaling), num_layers=1)
    params = drawn(config)
    full = run(config, params, tokens)[0]
    np.testing.assert_allclose(decode(run, config, params, tokens, [12])[0], full, rtol=1e-4, atol=2e-5)
    single, cache = decode(run, config, params, tokens, [1] * 12)
    assert np.abs(single - full)[:, 5:].max() > 1e-2
    one_by_one = [run(config, params, tokens[:, : t + 1], taps=["key"])[2]["key"][0, :, t] for t in range(12)]
    np.testing.assert_allclose(cache["0"].k[0, :, :12], np.stack(one_by_one, axis=1), rtol=1e-4, atol=2e-5)
