"""Properties of every recurrent mixer: documents are apart, steps of any size, padding, taps, refusals."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.context import Context
from model.dropout import Dropout
from model.errors import UserError
from model.layers import Except
from model.options.tree import check
from model.parameters.precision import Precision, for_inference
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.memory import chunk_decays, merge_chunks, scan_tokens, split_chunks
from model.stack import empty_caches
from model.transformer import abstract_params, forward, specs
from model.vocabulary.embedding import Untied

MIXERS = {
    "linear attention": LinearAttention(num_heads=2, chunk=5),
    "gated delta": GatedDelta(num_heads=4, num_key_heads=2, head_dim=4, chunk=5),
    "lstm": LSTM(num_heads=2),
    "gru": GRU(head_dim=5, reset="before"),
}


@pytest.fixture(scope="module", params=MIXERS)
def model(request, small, drawn):
    """Returns a model with one layer of a mixer, and its parameters."""
    config = small(mixer=MIXERS[request.param], position=NoPositions(), num_layers=1, unembedding=Untied())
    return config, drawn(config)


# ------------------------------------------------------------------------------------------------------- pieces


def test_chunks():
    x = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    parts = split_chunks(x, 2)
    assert parts.shape == (3, 2, 3, 2)
    np.testing.assert_array_equal(parts[1, 0, 2], x[0, 2:4, 2])
    np.testing.assert_array_equal(parts[2, 1, 0], [x[1, 4, 0], 0])
    wide = np.arange(2 * 5 * 3 * 4).reshape(2, 5, 3, 4)
    np.testing.assert_array_equal(merge_chunks(split_chunks(wide, 2), 5), wide)


def test_decays_are_products_of_those_between_within_a_document():
    a = np.array([0.5, 0.25, 0.1, 0.8, 0.9, 0.7])
    document = np.array([[0, 0, 0, 0, 1, 1]])
    decay = chunk_decays(
        jnp.log(jnp.asarray(a))[None, :, None], 3, Context(index_BT=None, segment_ids_BT=jnp.asarray(document))
    )
    between = [[[1, 0, 0], [0.25, 1, 0], [0.025, 0.1, 1]], [[1, 0, 0], [0, 1, 0], [0, 0.7, 1]]]
    np.testing.assert_allclose(decay.pairwise_ZBNCS[:, 0, 0], between, rtol=1e-6)
    np.testing.assert_allclose(decay.from_start_ZBNC[:, 0, 0], [[0.5, 0.125, 0.0125], [0.8, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(decay.to_end_ZBNC[:, 0, 0], [[0.025, 0.1, 1], [0, 0.7, 1]], rtol=1e-6)
    np.testing.assert_allclose(decay.total_ZBN[:, 0, 0], [0.0125, 0], rtol=1e-6)


def test_scan_tokens_forgets_at_documents_and_skips_padding():
    add = lambda state, x: (state + x, state + x)  # noqa: E731
    x = jnp.asarray([[1.0, 2, 4, 8], [1, 2, 4, 8]])
    documents = Context(index_BT=None, segment_ids_BT=jnp.asarray([[0, 0, 1, 1], [0, 0, 0, 0]]))
    state, sums = scan_tokens(add, jnp.asarray([10.0, 20]), x, documents)
    np.testing.assert_array_equal(sums, [[11, 13, 4, 12], [21, 23, 27, 35]])
    padded = Context(index_BT=None, real_BT=jnp.asarray([[True, False, False, False], [True, True, True, False]]))
    state, sums = scan_tokens(add, jnp.asarray([10.0, 20]), x, padded)
    np.testing.assert_array_equal(state, [11, 27])


# ---------------------------------------------------------------------------------------------------- every mixer


def test_causality_by_gradient(model):
    """Logits at t depend on the embedding at s exactly if s <= t in the same document, across chunks too."""
    config, params = model
    tokens, segment_ids = np.arange(8, dtype=np.int32)[None], np.array([[1, 1, 2, 2, 2, 2, 2, 2]])

    def scores(table):
        moved = {**params, "embedding": {**params["embedding"], "table": table}}
        return forward(config, moved, tokens, segment_ids_BT=segment_ids).logits_BTV[0] @ np.linspace(-1, 1, 17)

    slopes = np.abs(jax.jit(jax.jacrev(scores))(params["embedding"]["table"])[:, :8]).max(-1)
    seen = np.tril(segment_ids[0][:, None] == segment_ids[0])
    np.testing.assert_array_equal(slopes[~seen], 0)
    assert slopes[seen].min() > 1e-7


def test_documents_packed_together_equal_documents_alone(model, run, tokens):
    config, params = model
    lengths = [5, 4, 3]  # the first border is also a chunk's border, the second is not
    segment_ids = np.repeat([1, 2, 0], lengths)[None].astype(np.int32)
    packed = run(config, params, tokens[:1], segment_ids_BT=segment_ids)[0]
    apart = [run(config, params, tokens[:1, at : at + n])[0] for at, n in ((0, 5), (5, 4))]
    np.testing.assert_allclose(packed[:, :9], np.concatenate(apart, axis=1), rtol=1e-4, atol=1e-5)
    together = run(config, params, tokens[:1])[0]
    assert np.abs(packed[:, 5:9] - together[:, 5:9]).max() > 0.1
    np.testing.assert_allclose(packed[:, :5], together[:, :5], rtol=1e-4, atol=1e-5)


def test_rows_of_different_lengths(model, run, tokens):
    """Rows are prefilled together in two chunks, padded on the right; then each row goes on from its own length."""
    config, params = model
    full = np.asarray(run(config, params, tokens)[0])
    lengths, cache = np.array([2, 6]), empty_caches(config, 2, 14)
    for begin in (0, 4):
        positions = np.broadcast_to(np.arange(begin, begin + 4, dtype=np.int32), (2, 4))
        real = positions < lengths[:, None]
        padded = np.where(real, tokens[:, begin : begin + 4], 16).astype(np.int32)
        logits, cache, _ = run(config, params, padded, positions_BT=positions, cache=cache, lengths_B=lengths)
        np.testing.assert_allclose(logits[real], full[:, begin : begin + 4][real], rtol=1e-4, atol=2e-5)
    for step in range(3):
        at = lengths + step
        positions = at[:, None].astype(np.int32)
        logits, cache, _ = run(config, params, tokens[[0, 1], at][:, None], positions_BT=positions, cache=cache)
        np.testing.assert_allclose(np.asarray(logits)[:, 0], full[[0, 1], at], rtol=1e-4, atol=2e-5)


def test_the_state_has_one_size_and_stays_float32(model, run, tokens, recording):
    config, _ = model
    short, long = (empty_caches(config, 2, length) for length in (3, 300))
    shapes = lambda cache: jax.tree.map(lambda x: (x.shape, str(x.dtype)), cache)  # noqa: E731
    assert shapes(short) == shapes(long)
    assert {x.dtype for x in jax.tree.leaves(long)} == {jnp.dtype("float32")}
    long["0"].sharded(recording)
    assert recording.placed
    assert all(axes[:2] == ("batch", "heads") for axes, _ in recording.placed)


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
def test_number_formats(small, tokens, mixer):
    for compute, reductions in itertools.product(["float32", "bfloat16"], repeat=2):
        precision = Precision(compute=compute, reductions=reductions)
        config = small(mixer=mixer, position=NoPositions(), precision=precision)

        def run(params, cache, config=config):
            positions = None if cache is None else np.broadcast_to(np.arange(12, dtype=np.int32), (2, 12))
            output = forward(config, params, tokens, positions_BT=positions, cache=cache, taps=["mixer_output"])
            return output.taps["mixer_output"], output.cache

        for cache in (None, jax.eval_shape(lambda config=config: empty_caches(config, 2, 14))):
            written, after = jax.eval_shape(run, abstract_params(config), cache)
            assert written.dtype == compute
            assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, cache)


def test_decays_are_not_rounded(small):
    config = small(mixer=MIXERS["gated delta"], position=NoPositions(), precision=Precision(compute="bfloat16"))
    used = jax.eval_shape(lambda p: for_inference(p, specs(config), config.precision), abstract_params(config))[
        "blocks"
    ]["mixer"]
    assert {name for name, x in used.items() if not isinstance(x, dict) and x.dtype == jnp.float32} == {
        "decay_rate",
        "decay_bias",
    }


def test_a_hybrid_has_the_length_of_its_attention(small, run, drawn, tokens):
    """There are three gated-delta layers for each attention layer; the first stack has no keys."""
    layers = (Except(layers="3::4", mixer=GroupedQuery(num_heads=2)),)
    config = small(num_layers=4, mixer=MIXERS["gated delta"], exceptions=layers, position=Rotary())
    slots = {name: getattr(cache, "length", None) for name, cache in empty_caches(config, 2, 9).items()}
    assert slots == {"0": None, "1": None, "2": None, "3": 9}
    weights = run(config, drawn(config), tokens, taps=["attention_weights"])[2]["attention_weights"]
    assert weights.shape == (1, 2, 2, 12, 12)


# -------------------------------------------------------------------------------------------------------- refusals


def test_positions_that_no_recurrent_layer_can_use_are_refused(small):
    for mixer, position in itertools.product(MIXERS.values(), (Rotary(), ALiBi())):
        names = f"{type(position).__name__} acts only in attention, and layers with {type(mixer).__name__} have none"
        with pytest.raises(UserError, match=f"position: {names}"):
            check(small(mixer=mixer, position=position))
        check(
            small(
                mixer=mixer,
                position=position,
                exceptions=(Except(layers="1", mixer=GroupedQuery(num_heads=2)),),
            )
        )
    for position in (Learned(), Sinusoidal(), NoPositions()):
        check(small(mixer=LSTM(), position=position))


def test_an_exception_gives_no_position_to_recurrent_layers_alone(small):
    for position in (NoPositions(), Rotary(theta=9.0)):
        with pytest.raises(UserError, match="exceptions.0.position: .* layers with LSTM have none.*; leave it out"):
            check(small(exceptions=(Except(layers="1", mixer=LSTM(), position=position),)))


def test_dropout_of_attention_needs_attention(small):
    rates = Dropout(attention=0.1)
    with pytest.raises(UserError, match="dropout.attention: drops attention weights, and GRU has none"):
        check(small(mixer=GRU(), position=NoPositions(), dropout=rates))
    check(small(mixer=GRU(), exceptions=(Except(layers="1", mixer=GroupedQuery(num_heads=2)),), dropout=rates))


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
def test_sizes_below_one_are_refused(small, mixer):
    with pytest.raises(UserError, match="mixer.num_heads: must be at least 1, got 0"):
        check(small(mixer=dataclasses.replace(mixer, num_heads=0), position=NoPositions()))
    with pytest.raises(UserError, match="mixer.head_dim: must be at least 1, got 0"):
        check(small(mixer=dataclasses.replace(mixer, head_dim=0), position=NoPositions()))
    wrong = dataclasses.replace(mixer, num_heads=3, head_dim=None)
    with pytest.raises(UserError, match="mixer.num_heads: 3 heads do not divide width=16.* set mixer.head_dim"):
        check(small(mixer=wrong, position=NoPositions()))
