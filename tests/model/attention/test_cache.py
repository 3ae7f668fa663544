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
from model.kernels.visibility import Coordinates, causal
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
from model.recurrent.state_space import StateSpace
from model.residual import HyperConnections, Multipliers, Parallel, PostNorm, Reordered, Sandwich
from model.stack import empty_caches
from model.vocabulary.embedding import Untied
from model.vocabulary.per_layer import PerLayerEmbedding
from tests.tiers import SWEEP, representatives


def test_a_layer_whose_queries_see_a_few_keys_has_a_ring_of_as_many_slots():
    for reach, layout, slots in (
        (None, kv_cache.ContiguousCache, 5),
        (5, kv_cache.ContiguousCache, 5),
        (3, kv_cache.RingCache, 3),
    ):
        cache = kv_cache.make_cache(2, 5, "bfloat16", reach, k=(4, 6), v=(4, 7))
        assert type(cache) is layout
        assert {name: x.shape for name, x in cache.arrays.items()} == {"k": (2, 4, slots, 6), "v": (2, 4, slots, 7)}
        assert cache.length == slots
        assert all(x.dtype == jnp.bfloat16 and not x.any() for x in cache.arrays.values())


def extended(cache, values, positions, lengths=None):
    """The cache with tokens whose key is a number, and what each query sees: positions and numbers of keys."""
    values = jnp.asarray(values, jnp.float32)[:, :, None, None]
    positions = jnp.asarray(positions, jnp.int32)
    cache, view = cache.extend({"k": values}, positions, None if lengths is None else jnp.asarray(lengths))
    mask = np.asarray(causal(Coordinates(positions.shape[1], index=positions)).with_keys(view.keys).mask())
    positions_of_keys = np.broadcast_to(view.keys.indices(), (len(mask), view.keys.count))
    keys = np.asarray(view.arrays["k"])[:, :, 0, 0]
    seen = [
        [dict(zip(positions_of_keys[b][m].tolist(), keys[b][m].tolist(), strict=True)) for m in rows]
        for b, rows in enumerate(mask)
    ]
    return cache, seen


def test_a_contiguous_cache_puts_each_row_at_its_own_slots_and_drops_what_lies_past_the_end():
    cache, seen = extended(kv_cache.make_cache(2, 4, "float32", None, k=(1, 1)), [[1, 2], [3, 4]], [[0, 1], [3, 4]])
    np.testing.assert_array_equal(cache.arrays["k"][:, 0, :, 0], [[1, 2, 0, 0], [0, 0, 0, 3]])
    assert seen[0] == [{0: 1}, {0: 1, 1: 2}]
    assert seen[1][0] == {0: 0, 1: 0, 2: 0, 3: 3}


def test_a_ring_holds_the_last_tokens_of_each_row_whatever_comes_with_them():
    """Against a dict: chunks of all sizes, some longer than the ring, rows of two lengths, padding after them."""
    for sizes in ([1] * 20, [7, 1, 1, 9, 2], [2, 3, 15], [3, 1, 1, 15]):
        cache, lengths, begin = kv_cache.make_cache(2, 99, "float32", 3, k=(1, 1)), [20, 9], 0
        for size in sizes:
            positions = np.broadcast_to(np.arange(begin, begin + size), (2, size))
            real = positions < np.array(lengths)[:, None]
            cache, seen = extended(cache, np.where(real, positions + 100, -1), positions, lengths)
            for row, at in zip(*np.nonzero(real), strict=True):
                position = begin + at
                # Keys out of the window may be there or not: the pattern hides them.
                near = {p: value for p, value in seen[row][at].items() if p > position - 3}
                assert near == {p: p + 100 for p in range(max(0, position - 2), position + 1)}
            begin += size
        for row, length in enumerate(lengths):
            stored = {p % 3: p + 100 for p in range(length - 3, length)}
            np.testing.assert_array_equal(cache.arrays["k"][row, 0, :, 0], [stored[slot] for slot in range(3)])


def test_a_cache_keeps_its_dtype():
    for reach in (None, 2):
        cache, _ = extended(kv_cache.make_cache(1, 4, "bfloat16", reach, k=(1, 1)), [[1.0]], [[0]])
        assert cache.arrays["k"].dtype == jnp.bfloat16


def test_a_cache_is_laid_over_the_mesh(recording):
    for heads, width in (("kv_heads", "head_dim"), (None, None)):
        kv_cache.make_cache(2, 5, "float32", None, heads, k=(4, 6)).sharded(recording)
        assert recording.placed[-1] == (("batch", heads, "key_sequence", width), (2, 4, 5, 6))


CONFIGS = {
    "rotary": {"position": Rotary()},
    "learned": {
        "position": Learned(offset=2),
        "norm": LayerNorm(),
        "embedding_norm": RMSNorm(),
        "ffn": MLP(width=24, bias=True),
        "mixer": GroupedQuery(num_heads=4, num_kv_heads=2, scale_by_layer=True),
        "embedding_width": 6,
    },
    "sinusoidal": {"position": Sinusoidal(), "residual": PostNorm(), "scan_layers": False},
    "none": {
        "position": NoPositions(),
        "mixer": GroupedQuery(
            num_heads=4, num_kv_heads=1, qkv_bias=True, output_bias=True, qk_norm=QKNorm(), logit_softcap=2.0
        ),
    },
    "local and global": {
        "num_layers": 5,
        "mixer": GroupedQuery(num_heads=4, pattern=SlidingWindow(size=3)),
        "exceptions": (
            Except(layers="1::2", mixer=GroupedQuery(num_heads=2, num_kv_heads=1), position=Rotary(theta=100.0)),
            Except(layers="-1", mixer=GroupedQuery(num_heads=2, pattern=Chunked(size=4)), position=NoPositions()),
        ),
    },
    "latent": {
        "num_layers": 3,
        "mixer": Latent(num_heads=3, kv_rank=5, query_rank=6, head_dim=4, rotary_head_dim=2, value_head_dim=6),
        "exceptions": (
            Except(layers="1", mixer=GroupedQuery(num_heads=2)),
            Except(layers="2", position=ALiBi()),
        ),
    },
    "gated": {
        "mixer": GroupedQuery(
            num_heads=4, sinks=True, output_gate="channel", qk_norm=QKNorm(over="projection", after_positions=True)
        )
    },
    "values from keys": {
        "position": Rotary(fraction=0.5, rotated="fastest"),
        "mixer": GroupedQuery(num_heads=2, values_from_keys=True, qk_norm=QKNorm(), value_norm=RMSNorm(scale="none")),
        "per_layer_embedding": PerLayerEmbedding(width=3),
    },
    "keys of earlier layers": {
        "num_layers": 4,
        "mixer": GroupedQuery(num_heads=2, pattern=SlidingWindow(size=4)),
        "exceptions": (
            Except(layers="1", mixer=GroupedQuery(num_heads=4, num_kv_heads=1)),
            Except(layers="2", mixer=GroupedQuery(num_heads=2, pattern=SlidingWindow(size=4), kv_from_layer=0)),
            Except(layers="3", mixer=GroupedQuery(num_heads=4, num_kv_heads=1, kv_from_layer=1)),
        ),
    },
    "value residuals": {
        "num_layers": 3,
        "mixer": GroupedQuery(num_heads=4, num_kv_heads=2, value_residual=ValueResidual(trained=True)),
    },
    "a sublayer alone": {
        "num_layers": 4,
        "exceptions": (Except(layers="1::2", ffn=None), Except(layers="2", mixer=None)),
    },
    "no mixer": {"position": NoPositions(), "mixer": None, "stream_scale": 0.7},
    "temperature": {
        "num_layers": 4,
        "exceptions": (
            Except(
                layers="3::4",
                mixer=GroupedQuery(num_heads=4, temperature=LogTemperature(step_length=3, scale=0.7)),
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
        "mixer": GroupedQuery(num_heads=6, num_kv_heads=2, head_dim=4, logit_softcap=2.0, qkv_clip=0.5),
        "exceptions": (
            Except(layers="1", position=Rotary()),
            Except(layers="2", position=ALiBi(scale=0.5, round_to_bfloat16=True)),
        ),
    },
    "trained biases": {
        "num_layers": 3,
        "position": RelativeBias(buckets=6, max_distance=9),
        "exceptions": (
            Except(
                layers="1",
                mixer=Latent(num_heads=3, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6),
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
                    router=SigmoidRouter(groups=Groups(count=3, top_k=2), norm=RMSNorm(), expert_scale=True),
                    load_bias=LoadBias(),
                    branch_norms=RMSNorm(),
                ),
            ),
        ),
    },
    "recurrent and attention": {
        "num_layers": 5,
        "mixer": GatedDelta(num_heads=4, num_key_heads=2, value_head_dim=3, chunk=3),
        "exceptions": (
            Except(layers="1", mixer=GroupedQuery(num_heads=4, pattern=SlidingWindow(size=3))),
            Except(layers="-1", mixer=LinearAttention(num_heads=2, chunk=4)),
        ),
    },
    "state space": {
        "num_layers": 3,
        "mixer": StateSpace(num_heads=4, num_groups=2, state_dim=6, bias=True, chunk=3),
        "exceptions": (Except(layers="1", mixer=GroupedQuery(num_heads=4)), Except(layers="::2", ffn=None)),
    },
    "recurrent": {
        "num_layers": 3,
        "position": Learned(),
        "mixer": LSTM(num_heads=2, head_dim=5),
        "exceptions": (Except(layers="1", mixer=GRU()),),
    },
    "rings": {
        "num_layers": 6,
        "mixer": GroupedQuery(
            num_heads=4, num_kv_heads=2, pattern=SlidingWindow(size=3), sinks=True, qk_norm=QKNorm(), logit_softcap=3.0
        ),
        "exceptions": (
            Except(layers="1", mixer=GroupedQuery(num_heads=4, pattern=Chunked(size=4)), position=ALiBi()),
            Except(
                layers="2",
                mixer=Latent(
                    num_heads=3,
                    kv_rank=5,
                    head_dim=4,
                    rotary_head_dim=2,
                    value_head_dim=6,
                    pattern=SlidingWindow(size=2),
                ),
            ),
            Except(layers="3", position=RelativeBias(buckets=6, max_distance=9)),
            Except(layers="4", mixer=GroupedQuery(num_heads=4, pattern=BlockSparse(block=2, first=0, last=2))),
            Except(layers="5", mixer=GroupedQuery(num_heads=4, pattern=SlidingWindow(size=3, first=1))),
        ),
    },
    "rings and shared values": {
        "residual": HyperConnections(streams=2),
        "mixer": GroupedQuery(
            num_heads=4, num_kv_heads=2, value_residual=ValueResidual(trained=True), pattern=SlidingWindow(size=4)
        ),
    },
    "sparse": {
        "num_layers": 3,
        "mixer": GroupedQuery(num_heads=4, pattern=Strided(stride=3)),
        "exceptions": (
            Except(layers="1", mixer=GroupedQuery(num_heads=4, pattern=Fixed(stride=4, summaries=2))),
            Except(layers="2", mixer=GroupedQuery(num_heads=4, pattern=BlockSparse(block=2))),
        ),
    },
}
CACHED = ("local and global", "latent", "recurrent and attention")


def decode(run, config, params, tokens, steps, slots=14):
    """Returns the logits of the tokens, which a cache reads in chunks of the given sizes."""
    cache = empty_caches(config, len(tokens), slots)
    logits, begin = [], 0
    for size in steps:
        positions = np.broadcast_to(np.arange(begin, begin + size, dtype=np.int32), (len(tokens), size))
        some, cache, _ = run(config, params, tokens[:, begin : begin + size], positions_BT=positions, cache=cache)
        logits.append(some)
        begin += size
    return np.concatenate(logits, axis=1), cache


@pytest.mark.parametrize("name", representatives(CONFIGS, *CACHED))
def test_cached_equals_full(small, drawn, run, tokens, name):
    """Token by token from nothing, a chunk of several, token by token to the end; and in chunks of two sizes."""
    config = small(**CONFIGS[name])
    params = drawn(config)
    full = run(config, params, tokens)[0]
    cached, cache = decode(run, config, params, tokens, [1, 5, *[1] * 6])
    np.testing.assert_allclose(cached, full, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(decode(run, config, params, tokens, [5, 5, 1, 1])[0], full, rtol=1e-4, atol=2e-5)
    assert list(cache) == [str(n) for n, x in enumerate(config.layers) if x.mixer and not x.mixer.taken_arrays(16)]
    for stored in cache.values():
        for array in stored.arrays.values() if isinstance(stored, kv_cache.ContiguousCache) else ():
            assert array.shape[2] == 14
            assert np.abs(array[:, :, 11]).min() > 0
            assert not array[:, :, 12:].any()


def test_which_layers_have_rings(small):
    """Those whose pattern has a bound, and no more slots than that; sinks of a pattern are keys without a bound."""
    slots = [cache.length for cache in empty_caches(small(**CONFIGS["rings"]), 2, 14).values()]
    assert slots == [3, 4, 2, 3, 4, 14]
    assert [cache.length for cache in empty_caches(small(**CONFIGS["rings"]), 2, 3).values()] == [3, 3, 2, 3, 3, 3]


ROWS = (
    "rotary",
    "learned",
    "local and global",
    "latent",
    "linear biases",
    "rings",
    "rings and shared values",
    "recurrent and attention",
)


@pytest.mark.parametrize("size", representatives([7, 4, 1], 4))
@pytest.mark.parametrize("name", representatives(ROWS, "latent", "rings", "recurrent and attention"))
def test_rows_of_different_lengths(small, drawn, run, tokens, name, size):
    """Prefilled together in chunks, padded on the right; then each row goes on from its own length."""
    config = small(**CONFIGS[name])
    params = drawn(config)
    full = np.asarray(run(config, params, tokens)[0])
    lengths, cache = np.array([2, 7]), empty_caches(config, 2, 14)
    for begin in range(0, 7, size):
        positions = np.broadcast_to(np.arange(begin, begin + size, dtype=np.int32), (2, size))
        real = positions < lengths[:, None]
        some = np.where(real, tokens[:, begin : begin + size], 16).astype(np.int32)
        logits, cache, _ = run(config, params, some, positions_BT=positions, cache=cache, lengths_B=lengths)
        np.testing.assert_allclose(logits[real], full[:, begin : begin + size][real], rtol=1e-4, atol=2e-5)
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
    clean, dirty = (run(config, params, tokens[:, :5], positions_BT=positions, cache=c)[0] for c in (cache, rubbish))
    np.testing.assert_array_equal(clean, dirty)


@pytest.mark.parametrize(
    "scaling",
    [
        DynamicNTK(factor=4.0, original_length=5),
        pytest.param(
            LongRoPE(short_factors=(1.0, 1.0), long_factors=(3.0, 5.0), original_length=5, factor=4.0), marks=SWEEP
        ),
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
    np.testing.assert_allclose(cache["0"].arrays["k"][:, :, :12], np.stack(one_by_one, axis=2), rtol=1e-4, atol=2e-5)
