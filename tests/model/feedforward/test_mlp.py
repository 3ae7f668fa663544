import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.context import Context
from model.feedforward.mlp import ACTIVATIONS, MLP, FeedForward, Gated
from model.options.annotations import fields_of
from model.parameters.maker import Normal, ParameterMaker
from model.taps.request import Tap, Taps

BY_HAND = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "identity": lambda x: x,
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}
PLACES = np.array([-9.0, -3.0, -1.0, -0.3, 0.2, 0.7, 2.0, 8.0])


def test_every_activation_is_known_by_hand():
    for option in (MLP, Gated):
        assert set(fields_of(option)["activation"].__args__) == set(ACTIVATIONS) == set(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_activation(name):
    expected = [BY_HAND[name](x) for x in PLACES]
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(PLACES, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BY_HAND)
def test_slope_of_activation(name):
    step = 1e-6
    expected = [(BY_HAND[name](x + step) - BY_HAND[name](x - step)) / (2 * step) for x in PLACES]
    slopes = jax.grad(lambda x: jnp.sum(ACTIVATIONS[name](x)))(jnp.asarray(PLACES, jnp.float32))
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BY_HAND)
def test_activation_keeps_the_dtype(name):
    assert ACTIVATIONS[name](jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_two_gelus_differ():
    x = jnp.asarray(PLACES, jnp.float32)
    assert np.abs(ACTIVATIONS["gelu"](x) - ACTIVATIONS["gelu_tanh"](x)).max() > 1e-4


WEIGHTS = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")


@pytest.mark.parametrize("activation", ["gelu", "relu2"])
@pytest.mark.parametrize("kind", [MLP, Gated])
@pytest.mark.parametrize("bias", [False, True])
def test_layer(kind, activation, bias):
    option = kind(width=5, activation=activation, bias=bias)
    layer = FeedForward(option, 4, ParameterMaker(jax.random.key(0), Normal(), 1, "float32"))
    rng, w = np.random.default_rng(0), {}
    for name in WEIGHTS:
        if getattr(layer, name) is not None:
            w[name] = rng.normal(size=getattr(layer, name).shape)
            setattr(layer, name, nnx.Param(w[name].astype(np.float32)))
    assert set(w) == {"up", "down"} | ({"gate"} if kind is Gated else set()) | (
        {f"{name}_bias" for name in w if not name.endswith("bias")} if bias else set()
    )
    x = rng.normal(size=(2, 3, 4))
    act = np.vectorize(BY_HAND[activation])
    up = x @ w["up"] + w.get("up_bias", 0)
    hidden = act(x @ w["gate"] + w.get("gate_bias", 0)) * up if kind is Gated else act(up)
    expected = hidden @ w["down"] + w.get("down_bias", 0)
    context = Context(index_BT=jnp.zeros((1, 3)), taps=Taps(keep=(Tap("ffn_hidden"),)))
    got = layer(jnp.asarray(x, jnp.float32), context)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(context.kept_taps["ffn_hidden"], hidden, rtol=2e-5, atol=2e-5)


def test_clamped_and_offset():
    """GPT-OSS limits the gate from above and up(x) on both sides, and adds 1 to up(x)."""
    option = Gated(width=5, activation="quick_gelu", clamp=0.7, up_offset=1.0)
    layer = FeedForward(option, 4, ParameterMaker(jax.random.key(0), Normal(), 1, "float32"))
    rng = np.random.default_rng(0)
    w = {name: rng.normal(size=getattr(layer, name).shape).astype(np.float32) for name in ("gate", "up", "down")}
    for name, value in w.items():
        setattr(layer, name, nnx.Param(value))
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    gate, up = x @ w["gate"], x @ w["up"]
    assert min(gate.min(), up.min()) < -0.7
    assert min(gate.max(), up.max()) > 0.7
    gate, up = np.where(gate > 0.7, 0.7, gate), np.where(up > 0.7, 0.7, np.where(up < -0.7, -0.7, up))
    expected = (gate / (1 + np.exp(-1.702 * gate)) * (up + 1)) @ w["down"]
    np.testing.assert_allclose(layer(x, Context(index_BT=jnp.zeros((1, 3)))), expected, rtol=2e-5, atol=2e-5)


def test_axes():
    layer = FeedForward(Gated(width=6, bias=True), 4, ParameterMaker(jax.random.key(0), Normal(), 1, "float32"))
    axes = {name: (getattr(layer, name).shape, getattr(layer, name).get_metadata()["spec"].axes) for name in WEIGHTS}
    assert axes == {
        "gate": ((4, 6), ("embed", "ffn")),
        "up": ((4, 6), ("embed", "ffn")),
        "down": ((6, 4), ("ffn", "embed")),
        "gate_bias": ((6,), ("ffn",)),
        "up_bias": ((6,), ("ffn",)),
        "down_bias": ((4,), ("embed",)),
    }
