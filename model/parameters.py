"""How every parameter starts, in one place.

What a parameter is for decides how it is drawn; n is `num_layers`, fan_in the number of inputs it contracts over.

| role        | parameters                              | `Normal`                | `FanIn`                    |
|-------------|-----------------------------------------|-------------------------|----------------------------|
| embedding   | token table                             | N(0, std)               | N(0, embedding_std)        |
| position    | learned position table                  | N(0, std)               | N(0, embedding_std)        |
| projection  | query, key and gate matrices; routers;  | N(0, std)               | truncated N(0, 1/fan_in)   |
|             | those that join two streams             |                         |                            |
| value       | value and up matrices                   | the same, * beta        | the same, * beta           |
| residual    | matrices that write to the residual     | N(0, std / sqrt(2n)) if | the same, / sqrt(2n) if    |
|             | stream: attention output, down          | scale_residual; * beta  | scale_residual; zero if    |
|             |                                         |                         | zero_residual; * beta      |
| unembedding | untied output matrix                    | N(0, std)               | truncated N(0, 1/fan_in)   |
| scale       | norm weights                            | 1                       | 1                          |
| gain        | layer scale                             | layer_scale             | layer_scale                |
| bias        | every bias                              | 0                       | 0                          |
| filter      | short convolutions over J tokens        | truncated N(0, 1/J)     | the same                   |
| decay rate  | of a memory                             | log U(1, 16)            | the same                   |
| decay bias  | of a memory                             | softplus^-1(exp U(log 0.001, log 0.1)) | the same    |

`Normal` with std 0.02 and scaled residual projections is GPT-2 (Radford et al. 2019, "Language Models are
Unsupervised Multitask Learners", section 2.3). `FanIn` keeps the variance of activations (LeCun et al. 1998,
"Efficient BackProp", section 4.6); its truncation at two deviations is corrected so that the variance is as stated.
`beta` is DeepNorm's: (8n)^(-1/4) for a decoder, together with `PostNorm(alpha=...)` (Wang et al. 2022, "DeepNet",
figure 2). It holds for the two matrices in a row through which a sublayer writes; the gate of a gated layer, which that
paper does not have, stays out, so that what is written shrinks by beta^2 in every sublayer.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

Role = Literal["embedding", "position", "projection", "value", "residual", "unembedding"]
TRUNCATED_STD = 0.87962566103423978  # standard deviation of N(0, 1) cut at two deviations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normal:
    """Every matrix from one normal distribution (GPT-2)."""

    std: float = 0.02
    scale_residual: bool = True
    beta: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.std <= 0:
            yield "std", f"must be above 0, got {self.std}"
        yield from _problems_of_beta(self.beta, scale_residual=self.scale_residual)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FanIn:
    """Every matrix by the number of its inputs."""

    embedding_std: float = 0.02
    scale_residual: bool = False
    zero_residual: bool = False
    beta: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.embedding_std <= 0:
            yield "embedding_std", f"must be above 0, got {self.embedding_std}"
        if self.scale_residual and self.zero_residual:
            yield "zero_residual", "scale_residual has nothing to scale when zero_residual is on; switch one off"
        yield from _problems_of_beta(self.beta, scale_residual=self.scale_residual, zero_residual=self.zero_residual)


def _problems_of_beta(beta: float, **others: bool) -> Iterator[tuple[str, str]]:
    if beta <= 0:
        yield "beta", f"must be above 0, got {beta}"
    elif beta != 1:
        for name, on in others.items():
            if on:
                yield (
                    "beta",
                    f"{name} already says how matrices that write to the stream start; switch it off, or beta=1",
                )


class ParameterMaker:
    """Draws the parameters of a model one after another from one key, and names their axes."""

    def __init__(self, key: jax.Array, initialization: Normal | FanIn, num_layers: int, dtype: str) -> None:
        """Args: the key to draw from, the scheme, the depth n of the table above, and the stored dtype."""
        self.rngs = nnx.Rngs(key)
        self.initialization = initialization
        residual = 1 / math.sqrt(2 * num_layers) if initialization.scale_residual else 1.0
        self.scales = {"value": initialization.beta, "residual": initialization.beta * residual}
        self.dtype = jnp.dtype(dtype)

    def matrix(self, role: Role, shape: tuple[int, ...], axes: tuple[str | None, ...], fan_in: int = 1) -> nnx.Param:
        """A parameter drawn at random: its role, its shape, a logical name for each axis, the inputs it contracts."""
        scheme = self.initialization
        key = self.rngs.params()
        if isinstance(scheme, Normal):
            value = scheme.std * jax.random.normal(key, shape)
        elif role in ("embedding", "position"):
            value = scheme.embedding_std * jax.random.normal(key, shape)
        elif role == "residual" and scheme.zero_residual:
            value = jnp.zeros(shape)
        else:
            value = jax.random.truncated_normal(key, -2, 2, shape) / (TRUNCATED_STD * math.sqrt(fan_in))
        if self.scales.get(role, 1) != 1:
            value = value * self.scales[role]
        return nnx.Param(value.astype(self.dtype), axes=axes)

    def filter(self, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
        """The filters of a short convolution, the tokens that they span in front."""
        value = jax.random.truncated_normal(self.rngs.params(), -2, 2, shape) / (TRUNCATED_STD * math.sqrt(shape[0]))
        return nnx.Param(value.astype(self.dtype), axes=axes)

    def decay_rate(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
        """The logarithms of the rates at which memories decay."""
        rate = jax.random.uniform(self.rngs.params(), shape, minval=1.0, maxval=16.0)
        return nnx.Param(jnp.log(rate).astype(self.dtype), axes=axes)

    def decay_bias(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
        """Biases under the softplus of a decay: with nothing added, it is log-uniform from 0.001 to 0.1."""
        step = jnp.exp(jax.random.uniform(self.rngs.params(), shape, minval=math.log(0.001), maxval=math.log(0.1)))
        return nnx.Param(jnp.log(jnp.expm1(step)).astype(self.dtype), axes=axes)

    def constant(self, value: float, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
        """A parameter that starts at one value: 1 for a norm's weight, 0 for a bias."""
        return nnx.Param(jnp.full(shape, value, self.dtype), axes=axes)

    def ones(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
        """A norm's weight."""
        return self.constant(1.0, shape, axes)

    def zeros(self, shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: str | None = None) -> nnx.Param:
        """A bias; a dtype of its own stands in for that of all parameters."""
        return nnx.Param(jnp.zeros(shape, dtype or self.dtype), axes=axes)
