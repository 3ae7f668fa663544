"""Quantised matrices against a NumPy loop over groups, bit for bit."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import qwix

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.cost import count_parameters
from model.errors import UserError
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.inference.generate import prepare_params
from model.layout import ONE_DEVICE
from model.options.tree import check
from model.parameters import quantized_matmul
from model.parameters.names import flatten
from model.parameters.precision import Precision
from model.parameters.quantized_weights import (
    LARGEST,
    MatrixLayout,
    QuantizedWeights,
    applies_to,
    dequantize,
    pack,
    quantize,
    tiles_of,
    unpack,
)
from model.parameters.specs import Spec, specs_by_name
from model.positions.absolute import NoPositions
from model.recurrent.gru import GRU
from model.transformer import abstract_params, forward, init, specs
from model.vocabulary.embedding import Untied

OPTIONS = [
    QuantizedWeights(),
    QuantizedWeights(format="int8", group=32),
    QuantizedWeights(format="int4"),
    QuantizedWeights(format="int4", group=32),
    QuantizedWeights(format="float8"),
    QuantizedWeights(format="float8", group=32),
]
NAMES = [option.text for option in OPTIONS]
# An attention output: inputs of 4 heads of 16, so that a group of 32 covers two heads; two layers.
SPEC = Spec(role="residual", axes=("layer", "heads", "head_dim", "embed"), inputs=(1, 2), outputs=(3,))
SHAPE = (2, 4, 16, 6)


def by_loop(w, option):
    """Scales and dequantised numbers, group by group."""
    layers, heads, width, outputs = w.shape
    flat = w.reshape(layers, heads * width, outputs)
    group, largest = option.group or heads * width, np.float32(1 / LARGEST[option.format])
    scales, numbers = np.zeros((layers, heads * width // group, outputs), np.float32), np.zeros_like(flat)
    for layer, g, output in np.ndindex(scales.shape):
        part = flat[layer, g * group : (g + 1) * group, output]
        scale = np.abs(part).max() * largest or np.float32(1)
        rounded = (
            (part / scale).astype(ml_dtypes.float8_e4m3fn) if option.format == "float8" else np.round(part / scale)
        )
        scales[layer, g, output] = scale
        numbers[layer, g * group : (g + 1) * group, output] = rounded.astype(np.float32) * scale
    return scales, numbers.reshape(w.shape)


def stored(w, option):
    layout = MatrixLayout(SPEC, w.shape, option)
    values, scales = jax.jit(lambda w: quantize(w, layout))(w)
    return layout, values, scales


@pytest.fixture(scope="module")
def matrix():
    w = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    w[0, :2, :, 0] = 0  # a group of zeros
    w[1, :, :, 1] *= 1e-3
    return w


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_scales_and_numbers_are_those_of_a_loop(matrix, option):
    layout, values, scales = stored(matrix, option)
    wanted_scales, wanted = by_loop(matrix, option)
    np.testing.assert_array_equal(np.asarray(scales).reshape(wanted_scales.shape), wanted_scales)
    plain = unpack(values, 2) if layout.format == "packed_int4" else values
    found = np.asarray(jax.jit(dequantize)(plain, scales))
    np.testing.assert_array_equal(found, wanted)
    largest = np.repeat(scales.reshape(wanted_scales.shape), option.group or 64, axis=1).reshape(SHAPE)
    bound = largest * 0.50001
    if option.format == "float8":  # three bits of mantissa; numbers below 2^-6 are multiples of 2^-9
        bound = np.maximum(np.abs(matrix) / 16, largest / 1024) * 1.00001
    assert np.all(np.abs(found - matrix) <= bound)
    assert np.abs(found - matrix).max() > 0.3 * bound[largest < 1].max()  # no better than it says; 1 is of zeros


def test_bytes(matrix):
    sizes = {option.text: sum(x.nbytes for x in stored(matrix, option)[1:]) for option in OPTIONS}
    scales = {None: 2 * 6 * 4, 32: 2 * 2 * 6 * 4}
    for option in OPTIONS:
        bits = 4 if option.format == "int4" else 8
        assert sizes[option.text] == matrix.size * bits // 8 + scales[option.group]


def test_int8_is_that_of_qwix(matrix):
    _, values, scales = stored(matrix, QuantizedWeights())
    array = qwix.quantize(
        jnp.asarray(matrix), jnp.int8, channelwise_axes=[0, 3], calibration_method=f"absmax,{127.5 / 127!r}"
    )
    np.testing.assert_array_equal(values, array.qvalue)
    np.testing.assert_allclose(scales[scales != 1], array.scale[scales != 1], rtol=1e-6)


def test_two_values_share_a_byte():
    x = jnp.arange(-8, 8, dtype=jnp.int8).reshape(2, 8)
    for axis in (0, 1):
        packed = pack(x, axis)
        assert packed.size == 8
        assert packed.dtype == jnp.int8
        np.testing.assert_array_equal(unpack(packed, axis), x)
    assert int(pack(jnp.array([3, -2], jnp.int8), 0)[0]) & 0xFF == 0xE3


def test_groups_are_consecutive_inputs_and_divide_them():
    assert tiles_of((512,), 64) == (64,)
    assert tiles_of((4, 16), 32) == (2, 16)
    assert tiles_of((4, 64), 32) == (1, 32)
    assert tiles_of((4, 16), None) == tiles_of((4, 16), 64) == tiles_of((4, 16), 100) == (4, 16)
    assert tiles_of((344,), 64) == (43,)
    assert tiles_of((3, 16), 32) == (1, 16)
    odd = MatrixLayout(Spec(role="value", axes=(None, None), inputs=(0,), outputs=(1,)), (43, 2), OPTIONS[3])
    assert odd.format == "int4"
    assert quantize(jnp.zeros((43, 2)), odd)[0].shape == (43, 2)


def test_values_and_scales_name_the_axes_of_the_matrix():
    values, scales = MatrixLayout(SPEC, SHAPE, OPTIONS[3]).specs()
    assert values.axes == SPEC.axes
    assert (values.role, values.format) == ("residual", "packed_int4")
    assert scales.axes == ("layer", "heads_groups", None, "embed")
    assert not values.trained
    assert not scales.trained


@pytest.fixture(scope="module")
def weights(small):
    """A model with every kind of matrix, and its parameters."""
    experts = Experts(num_experts=2, top_k=1, expert=Gated(width=8))
    config = small(unembedding=Untied(), num_layers=1, ffn=experts)
    return config, init(config, jax.random.key(0))


def quantized(config, option):
    return dataclasses.replace(config, precision=Precision(weights=option))


def dequantized(params, quantized_params, known):
    """The tree of a model with whole matrices, with the numbers of a quantised one."""
    found = flatten(quantized_params)

    def of(name, spec):
        if not applies_to(spec):
            return found[name]
        values, scales = found[f"{name}.values"], found[f"{name}.scales"]
        shape = flatten(params)[name].shape
        return dequantize(values if values.shape == shape else unpack(values, spec.inputs[-1]), scales)

    return jax.tree.unflatten(jax.tree.structure(params), [of(*item) for item in specs_by_name(known).items()])


@pytest.mark.parametrize("option", [OPTIONS[3], OPTIONS[4]], ids=[NAMES[3], NAMES[4]])
def test_a_model_computes_with_the_numbers_that_it_stores(weights, option, monkeypatch):
    monkeypatch.setattr(quantized_matmul, "FEW_ROWS", 0)  # few rows are multiplied in integers
    config, params = weights
    few = quantized(config, option)
    drawn = jax.jit(lambda: init(few, jax.random.key(0)))()
    tokens = jnp.arange(8).reshape(1, 8) % config.vocab_size
    logits = jax.jit(lambda config, params: forward(config, params, tokens).logits_BTV, static_argnums=0)
    wanted = logits(config, dequantized(params, drawn, specs(config)))
    np.testing.assert_allclose(logits(few, drawn), wanted, rtol=1e-5, atol=1e-6)
    prepared = prepare_params(few, drawn, ONE_DEVICE).params
    kinds = {str(x.dtype) for x in jax.tree.leaves(prepared)}
    assert kinds == {"float32", "bfloat16" if option.format == "float8" else "int8"}
    assert count_parameters(few) == count_parameters(config)


def test_specs_choose_the_matrices(small):
    for config in (
        small(
            unembedding=Untied(), mixer=Latent(num_heads=2, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6)
        ),
        small(ffn=Experts(num_experts=2, top_k=1, expert=Gated(width=8))),
        small(mixer=GRU(), position=NoPositions()),
    ):
        whole, few = specs_by_name(specs(config)), specs_by_name(specs(quantized(config, QuantizedWeights())))
        chosen = {name.rpartition(".")[0] for name in few if name.endswith(".values")}
        assert chosen == {name for name in whole if applies_to(whole[name])}
        roles = {whole[name].role for name in chosen}
        assert roles <= {"projection", "value", "residual", "recurrent", "unembedding"}
        left = {whole[name].role for name in whole.keys() - chosen}
        assert "embedding" in left
        assert not left & {"value", "residual", "unembedding"}
        shapes = flatten(abstract_params(quantized(config, QuantizedWeights(format="int4", group=16))))
        assert all(shapes[f"{name}.values"].dtype == jnp.int8 for name in chosen)


def test_refusals(small):
    for option, message in (
        (QuantizedWeights(format="int4", group=8), r"group: must be from 16 to 256 inputs, or None for all, got 8"),
        (QuantizedWeights(format="float8", activations="int8"), r"activations: 'int8' multiplies integers"),
    ):
        with pytest.raises(UserError, match=message):
            check(quantized(small(), option))
    with pytest.raises(UserError, match=r"precision\.products: 'int8' is for training, and weights are quantised"):
        check(small(precision=Precision(products="int8", weights=QuantizedWeights())))
    assert list(itertools.chain(*(option.problems() for option in OPTIONS))) == []
    assert small(mixer=GroupedQuery(num_heads=2)).unquantized() == small(mixer=GroupedQuery(num_heads=2))
