"""Products in 8 bits against the equation: factors divided by scales, rounded, multiplied, scaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.errors import UserError
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.options.tree import check
from model.parameters import quantized_products
from model.parameters.precision import Precision
from model.parameters.quantized_products import FORMATS, quantized_einsum
from model.positions.absolute import NoPositions
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace
from model.transformer import abstract_params, forward, specs

LARGEST = {"int8": 127.0, "float8": 448.0, "gradient": 57344.0}


def rounded(x, axes, products, gradient=False):
    """The array after rounding to 8 bits with a scale for all numbers along `axes`."""
    scale = np.abs(x).max(axes, keepdims=True) / LARGEST["gradient" if gradient and products == "float8" else products]
    if products == "int8":
        return np.round(x / scale) * scale
    kind = FORMATS[products][gradient]
    return np.asarray(jnp.asarray(x / scale, jnp.float32).astype(kind).astype(jnp.float32)) * scale


@pytest.mark.parametrize("products", ["int8", "float8"])
def test_values_and_gradients(products):
    draw = np.random.default_rng(0)
    x, w, dy = (draw.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 16), (16, 4, 5), (2, 3, 4, 5)))
    x *= np.array([1.0, 30.0])[:, None, None]  # rows of different sizes: each token has its scale
    spec = "BTD,DNH->BTNH"
    y, backward = jax.vjp(lambda x, w: quantized_einsum(spec, x, w, products), jnp.asarray(x), jnp.asarray(w))
    wanted = np.einsum(spec, rounded(x, (2,), products), rounded(w, (0,), products))
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    dx, dw = backward(jnp.asarray(dy))
    wanted = np.einsum("BTNH,DNH->BTD", rounded(dy, (2, 3), products, True), rounded(w, (1, 2), products))
    np.testing.assert_allclose(dx, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(dw, np.einsum("BTD,BTNH->DNH", x, dy), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("products", "bound"), [("int8", 0.02), ("float8", 0.06)])
def test_the_compiled_program_multiplies_in_8_bits(products, bound):
    x, w = (jax.random.normal(jax.random.key(n), shape, jnp.bfloat16) for n, shape in enumerate(((8, 64), (64, 32))))
    multiply = jax.jit(lambda x, w: quantized_einsum("TD,DF->TF", x, w.astype(jnp.float32), products))
    text = multiply.lower(x, w).as_text()
    (dot,) = [line for line in text.splitlines() if "dot_general" in line]
    assert dot.count({"int8": "xi8>", "float8": "xf8E4M3FN>"}[products]) == 2
    y = multiply(x, w)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    assert 1e-4 < np.std(np.asarray(y, np.float64) - exact) / np.std(exact) < bound


MIXERS = [
    GroupedQuery(num_heads=4, num_kv_heads=2, qkv_bias=True),
    Latent(num_heads=2, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6, query_rank=7),
    GatedDelta(num_heads=2),
    LinearAttention(num_heads=4),
    StateSpace(num_heads=4, state_dim=5),
    LSTM(),
    GRU(),
]


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: type(mixer).__name__)
def test_every_matrix_that_is_marked_is_multiplied_in_8_bits_and_no_other(small, mixer):
    config = small(mixer=mixer, position=NoPositions(), scan_layers=False, precision=Precision(products="int8"))
    params = abstract_params(config)
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    text = str(jax.make_jaxpr(lambda p, t: forward(config, p, t).logits_BTV)(params, tokens))
    found = sum("preferred_element_type=int32" in line for line in text.splitlines())
    marked = [spec for spec in jax.tree.leaves(specs(config)) if spec.products == "int8"]
    assert found == config.num_layers * len(marked)
    matrices = [spec for spec in jax.tree.leaves(specs(config)) if spec.role in ("projection", "value", "residual")]
    absorbed = 2 if isinstance(mixer, Latent) else 0  # decoding multiplies these two another way
    assert len(marked) == len(matrices) - absorbed


def test_refusals(small, monkeypatch):
    eight_bits = Precision(products="float8")
    with pytest.raises(UserError, match=r"precision\.products: experts have no products in 'float8'; use 'compute'"):
        check(small(ffn=Experts(num_experts=4, top_k=2, expert=Gated(width=8)), precision=eight_bits))
    monkeypatch.setattr(quantized_products, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"'float8' needs the library qwix: pip install -e '\.\[quantized\]'"):
        check(small(precision=eight_bits))
