"""The feed-forward layer: a plain MLP, or a gated MLP (SwiGLU, GeGLU).

Vaswani et al. 2017, "Attention Is All You Need", equation 2; Shazeer 2020, "GLU Variants Improve Transformer",
equation 6 (with "sigmoid" it is the GLU of Dauphin et al. 2017, with "identity" the bilinear layer). ReLU squared: So
et al. 2021, "Primer". GELU and its quick form x * sigmoid(1.702 x): Hendrycks, Gimpel 2016. Mish: Misra 2019. Clamps
and the offset on up(x): OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card", section 2.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.interfaces import FeedForwardOption
from model.options.field_marks import WIDTH
from model.parameters.maker import ParameterMaker
from model.parameters.projections import project
from model.recompute import recomputed

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "identity", "mish", "relu", "relu2", "sigmoid", "silu", "tanh"]


def gelu(x: jax.Array) -> jax.Array:
    """Returns x times the standard normal distribution function of x, computed in float32.

    It uses erf where `jax.nn.gelu` uses erfc: erfc takes a CPU more than twice the time (tests/benchmarks/README.md).
    """
    y = x.astype(jnp.float32)
    return (0.5 * y * (1.0 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": recomputed(gelu),
    "gelu_tanh": recomputed(lambda x: jax.nn.gelu(x, approximate=True)),
    "quick_gelu": recomputed(lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "identity": lambda x: x,
    "mish": recomputed(jax.nn.mish),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "sigmoid": jax.nn.sigmoid,
    "silu": recomputed(jax.nn.silu),
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP(FeedForwardOption):
    """down(activation(up(x)))."""

    width: int = dataclasses.field(metadata=WIDTH)
    activation: Activation = "gelu"
    bias: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.width < 1:
            yield "width", f"must be at least 1, got {self.width}"

    def build(self, width: int, reductions: str, make: ParameterMaker) -> "FeedForward":
        """Builds the module of one layer."""
        return FeedForward(self, width, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: up and down."""
        return 2 * length * 2 * width * self.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gated(FeedForwardOption):
    """down(activation(gate(x)) * (up(x) + up_offset)): SwiGLU with "silu", GeGLU with "gelu".

    Attributes:
      width: F.
      activation: the activation of the gate.
      bias: whether all three projections have a bias.
      clamp: c limits gate(x) to at most c, and up(x) to the range from -c to c; None for no limit.
      up_offset: a constant added to up(x).
    """

    width: int = dataclasses.field(metadata=WIDTH)
    activation: Activation = "silu"
    bias: bool = False
    clamp: float | None = None
    up_offset: float = 0.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.width < 1:
            yield "width", f"must be at least 1, got {self.width}"
        if self.clamp is not None and self.clamp <= 0:
            yield "clamp", f"must be above 0, got {self.clamp}; use None for no limit"

    def build(self, width: int, reductions: str, make: ParameterMaker) -> "FeedForward":
        """Builds the module of one layer."""
        return FeedForward(self, width, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: gate, up and down."""
        return 2 * length * 3 * width * self.width


def hidden_activation(option: MLP | Gated, up: jax.Array, gate: jax.Array | None) -> jax.Array:
    """Returns the hidden layer from its projections, of any shape; `gate` is None for a layer without a gate."""
    activation = ACTIVATIONS[option.activation]
    if gate is None or isinstance(option, MLP):
        return activation(up)
    if option.clamp is not None:
        gate, up = jnp.minimum(gate, option.clamp), jnp.clip(up, -option.clamp, option.clamp)
    return activation(gate) * (up if option.up_offset == 0 else up + option.up_offset)


def unit_sizes(hidden_BTF: jax.Array, weights_BT: jax.Array | None) -> jax.Array:
    """Returns the largest absolute value and the sum of squares of every unit over a row's tokens, float32 (B, F, 2).

    The maximum is over the tokens with a weight above 0, the sum over all with their weights; None for weights of 1.
    """
    h_BTF = jax.lax.stop_gradient(hidden_BTF).astype(jnp.float32)
    weights_BT1 = jnp.ones((1, 1, 1)) if weights_BT is None else weights_BT.astype(jnp.float32)[..., None]
    largest_BF = jnp.max(jnp.where(weights_BT1 > 0, jnp.abs(h_BTF), 0.0), axis=1)
    return jnp.stack([largest_BF, jnp.sum(jnp.square(h_BTF) * weights_BT1, axis=1)], axis=-1)


class FeedForward(nnx.Module):
    """The module of `MLP` and of `Gated`."""

    def __init__(self, option: MLP | Gated, width: int, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the maker."""
        self.option = option
        ffn_width = option.width
        gated = isinstance(option, Gated)
        self.gate = make.matrix("projection", (width, ffn_width), ("embed", "ffn")) if gated else None
        self.up = make.matrix("value", (width, ffn_width), ("embed", "ffn"))
        self.down = make.matrix("residual", (ffn_width, width), ("ffn", "embed"))
        self.gate_bias = make.zeros((ffn_width,), ("ffn",)) if gated and option.bias else None
        self.up_bias = make.zeros((ffn_width,), ("ffn",)) if option.bias else None
        self.down_bias = make.zeros((width,), ("embed",)) if option.bias else None

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Maps (B, T, D) to (B, T, D), each token by itself."""
        up_BTF = project(x_BTD, self.up, context.layout, self.up_bias)
        gate_BTF = None if self.gate is None else project(x_BTD, self.gate, context.layout, self.gate_bias)
        hidden_BTF = hidden_activation(self.option, up_BTF, gate_BTF)
        hidden_BTF = context.shard(hidden_BTF, ("batch", "ffn_sequence", "ffn"))
        hidden_BTF = context.tap("ffn_hidden", hidden_BTF)
        context.offer("unit_sizes", lambda: unit_sizes(hidden_BTF, context.weights_BT))
        return project(hidden_BTF, self.down, context.layout, self.down_bias)
