"""Initial values of all parameters.

The role of a parameter decides how it is drawn; n is `num_layers`, fan_in the number of inputs that it contracts.

| role           | parameters                              | `Normal`                | `FanIn`                    |
|----------------|-----------------------------------------|-------------------------|----------------------------|
| embedding      | token table                             | N(0, std)               | N(0, embedding_std)        |
| position       | learned position table                  | N(0, std)               | N(0, embedding_std)        |
| projection     | query, key and gate matrices; matrices  | N(0, std)               | truncated N(0, 1/fan_in)   |
|                | that join two streams                   |                         |                            |
| recurrent      | from hidden vector to hidden vector     | the same                | the same                   |
| router         | from tokens to logits of experts        | the same                | the same                   |
| value          | value and up matrices                   | the same, * beta        | the same, * beta           |
| residual       | matrices that write to the residual     | N(0, std / sqrt(2n)) if | the same, / sqrt(2n) if    |
|                | stream: attention output, down          | scale_residual; * beta  | scale_residual; zero if    |
|                |                                         |                         | zero_residual; * beta      |
| unembedding    | untied output matrix                    | N(0, std)               | truncated N(0, 1/fan_in)   |
| score          | from the stream to scores               | N(0, std)               | the same                   |
| scale          | norm weights                            | 1                       | 1                          |
| gain           | layer scale, stream scale; factors of   | as these options say; 1 | the same                   |
|                | single experts                          |                         |                            |
| sink           | attention sinks: scores without a value | 0                       | 0                          |
| bias           | every bias, of routers and loads too    | 0                       | 0                          |
| filter         | short convolutions over J tokens        | truncated N(0, 1/J)     | the same                   |
| skip           | a state space's factor on its input     | 1                       | 1                          |
| mixing         | weights of streams and of values        | as the option says      | as the option says         |
| dynamic mixing | from streams to weights of streams      | 0                       | 0                          |
| decay rate     | log of a memory's decay rate            | log U(1, 16)            | the same                   |
| quantization scale | scales of a quantised matrix   | as the matrix is drawn  | the same                   |
| adapter        | A and B of an adapter                   | A: truncated N(0, 1 / (3 fan_in)); B: 0 | the same  |
| magnitude      | norms of an adapted matrix's outputs    | as the matrix is drawn  | the same                   |
| decay bias     | bias of a memory's step                 | softplus^-1(exp U(log 0.001, log 0.1)) | the same    |

`Normal` with std 0.02 and scaled residual projections is GPT-2 (Radford et al. 2019, "Language Models are
Unsupervised Multitask Learners", section 2.3). `FanIn` keeps the variance of activations (LeCun et al. 1998,
"Efficient BackProp", section 4.6); its truncation at two standard deviations is corrected so that the variance is as
stated. A parametrisation other than `Standard` multiplies deviations by its own factors
(model/parameters/parametrization.py). `beta` is DeepNorm's: (8n)^(-1/4) for a decoder, together with
`PostNorm(alpha=...)` (Wang et al. 2022, "DeepNet", figure 2). It applies to the two consecutive matrices through which
a sublayer writes, but not to the gate of a gated layer, which that paper does not have: so the output of every sublayer
shrinks by beta^2.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.parameters.adapters import Adapters
from model.parameters.parametrization import NO_GROWTH, ModelGrowth
from model.parameters.quantized_weights import MatrixLayout, QuantizedMatrix, QuantizedWeights, applies_to, quantize
from model.parameters.specs import ROLES, Growth, Initializer, Products, Role, Spec

if TYPE_CHECKING:
    from model.config import ModelConfig

TRUNCATED_STD = 0.87962566103423978  # the standard deviation of N(0, 1) truncated at two standard deviations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normal:
    """Draws every matrix from one normal distribution (GPT-2)."""

    std: float = 0.02
    scale_residual: bool = True
    beta: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.std <= 0:
            yield "std", f"must be above 0, got {self.std}"
        yield from _problems_of_beta(self.beta, scale_residual=self.scale_residual)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FanIn:
    """Draws every matrix with a variance of 1 / (its number of inputs)."""

    embedding_std: float = 0.02
    scale_residual: bool = False
    zero_residual: bool = False
    beta: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
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
                    f"{name} already scales matrices that write to the residual stream; switch it off, or set beta=1",
                )


@dataclasses.dataclass(frozen=True)
class ConstantValue:
    """The same value in every entry."""

    value: float

    def draw(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Returns initial values, float32."""
        return jnp.full(shape, self.value)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """factor * N(0, std)."""

    std: float
    factor: float

    def draw(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Returns initial values, float32."""
        return _scale(self.factor, self.std * jax.random.normal(key, shape))


@dataclasses.dataclass(frozen=True)
class LecunNormal:
    """factor * N(0, 1 / fan_in), truncated at two standard deviations."""

    fan_in: int
    factor: float = 1.0

    def draw(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Returns initial values, float32."""
        drawn = jax.random.truncated_normal(key, -2, 2, shape) / (TRUNCATED_STD * math.sqrt(self.fan_in))
        return _scale(self.factor, drawn)


@dataclasses.dataclass(frozen=True)
class LogOfUniform:
    """The logarithm of values that are uniform from `low` to `high`."""

    low: float
    high: float

    def draw(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Returns initial values, float32."""
        return jnp.log(jax.random.uniform(key, shape, minval=self.low, maxval=self.high))


@dataclasses.dataclass(frozen=True)
class InverseSoftplus:
    """Values whose softplus is log-uniform from `low` to `high`."""

    low: float
    high: float

    def draw(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Returns initial values, float32."""
        step = jnp.exp(jax.random.uniform(key, shape, minval=math.log(self.low), maxval=math.log(self.high)))
        return jnp.log(jnp.expm1(step))


def _scale(factor: float, x: jax.Array) -> jax.Array:
    return x if factor == 1 else x * factor


_without_values = contextvars.ContextVar("without_values", default=False)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Parameters that are made in the context are zeros: for shapes alone, tracing random draws takes too long."""
    token = _without_values.set(True)
    try:
        yield
    finally:
        _without_values.reset(token)


class ParameterMaker:
    """Draws the parameters of a model one after another from one key, and records the `Spec` of each."""

    def __init__(
        self,
        key: jax.Array,
        initialization: Normal | FanIn,
        num_layers: int,
        dtype: str,
        growth: ModelGrowth = NO_GROWTH,
        products: Products = "compute",
        weights: QuantizedWeights | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Makes the maker.

        Args:
          key: the key to draw from.
          initialization: the scheme.
          num_layers: the depth n of the table above.
          dtype: the stored dtype.
          growth: how much larger the model is than the base model of its parametrisation.
          products: `Precision.products`.
          weights: `Precision.weights`.
          adapters: `ModelConfig.adapters`; then all parameters but those of added parts are frozen.
        """
        self.rngs, self.growth, self.adapters = nnx.Rngs(key), growth, adapters
        # Keys of their own, so that all else is drawn as in the model without adapters.
        self.adapter_rngs = None if adapters is None else nnx.Rngs(jax.random.fold_in(key, 0))
        self.initialization = initialization
        residual = 1 / math.sqrt(2 * num_layers) if initialization.scale_residual else 1.0
        self.scales = {"value": initialization.beta, "residual": initialization.beta * residual}
        self.dtype, self.products, self.weights = dtype, products, weights

    def matrix(
        self,
        role: Role,
        shape: tuple[int, ...],
        axes: tuple[str | None, ...],
        *,
        inputs: int = 1,
        blocks: int = 0,
        eight_bits: bool = True,
        zero: bool = False,
    ) -> Any:
        """Makes a matrix, drawn at random: a parameter, or a `QuantizedMatrix` as `Precision.weights` says.

        Args:
          role: its role.
          shape: (*blocks, *inputs, *outputs).
          axes: a logical name for each axis.
          inputs: the number of axes that a product contracts.
          blocks: the number of first axes that count independent matrices.
          eight_bits: False for a matrix that `project` does not always multiply.
          zero: True for one that starts at 0.
        """
        input_axes = tuple(range(blocks, blocks + inputs))
        output_axes = tuple(range(blocks + inputs, len(shape)))
        sizes, result_sizes = (_named(axes, shape, some) for some in (input_axes, output_axes))
        growth = self.growth.of_parameter(role, sizes, result_sizes)
        fan_in = math.prod(shape[i] for i in input_axes)
        drawn = self._matrix_initializer(role, fan_in, self.growth.of_axes(sizes), growth)
        initializer = ConstantValue(0.0) if zero else drawn
        spec = Spec(
            role=role,
            axes=axes,
            inputs=input_axes,
            outputs=output_axes,
            initializer=initializer,
            frozen=self._freezes(role),
            growth=growth,
        )
        if eight_bits and ROLES[role].eight_bits and not blocks:
            spec = dataclasses.replace(spec, products=self.products)
        made: nnx.Param | QuantizedMatrix = self._make(spec, shape, self._next_key())
        if self.weights is not None and applies_to(spec):
            layout = MatrixLayout(spec, shape, self.weights)
            made = QuantizedMatrix(*quantize(made[...], layout), layout)
        if self.adapters is None or not self.adapters.adapts(spec):
            return made
        return self.adapters.build(made, spec, shape, self)

    def adapter(self, shape: tuple[int, ...], axes: tuple[str | None, ...], inputs: int, zero: bool = False) -> Any:
        """Makes a factor of an adapter, whose first axes are inputs: A, or with `zero` B."""
        sides = tuple(range(inputs)), tuple(range(inputs, len(shape)))
        growth = self.growth.of_parameter("adapter", *(_named(axes, shape, some) for some in sides))
        # The variance of U(-1, 1) / sqrt(fan_in), as other libraries draw A.
        drawn = LecunNormal(math.prod(shape[:inputs]), 3**-0.5 * growth.deviation)
        initializer = ConstantValue(0.0) if zero else drawn
        spec = Spec(
            role="adapter", axes=axes, inputs=sides[0], outputs=sides[1], initializer=initializer, growth=growth
        )
        assert self.adapter_rngs is not None
        return self._make(spec, shape, None if zero or _without_values.get() else self.adapter_rngs.params())

    def _freezes(self, role: Role) -> bool:
        """Returns whether adapters leave a parameter of the role as it is."""
        return self.adapters is not None and ROLES[role].trained and not ROLES[role].added

    def _matrix_initializer(self, role: Role, fan_in: int, fan_in_growth: float, growth: Growth) -> Initializer:
        """Returns the initial distribution of a matrix with `fan_in` inputs, so many times more than in the base."""
        scheme, factor = self.initialization, self.scales.get(role, 1.0) * growth.deviation
        if isinstance(scheme, Normal):
            return Gaussian(scheme.std, factor)
        if role in ("embedding", "position"):
            return Gaussian(scheme.embedding_std, factor)
        if role == "residual" and scheme.zero_residual:
            return ConstantValue(0.0)
        return LecunNormal(fan_in, factor * fan_in_growth**0.5)

    def _vector(
        self, role: Role, shape: tuple[int, ...], axes: tuple[str | None, ...], initializer: Initializer | None
    ) -> Spec:
        """Returns the spec of a parameter that is no matrix."""
        growth = self.growth.of_parameter(role, {}, _named(axes, shape, range(len(axes))))
        return Spec(role=role, axes=axes, initializer=initializer, frozen=self._freezes(role), growth=growth)

    def filter(self, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
        """Makes the filters of a short convolution; the first axis counts the tokens that they span."""
        return self._make(self._vector("filter", shape, axes, LecunNormal(shape[0])), shape, self._next_key())

    def decay_rate(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
        """Makes the logarithms of the decay rates of memories."""
        return self._make(self._vector("decay_rate", shape, axes, LogOfUniform(1, 16)), shape, self._next_key())

    def decay_bias(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
        """Makes the biases inside a decay's softplus; the softplus of a bias alone is log-uniform from 0.001 to 0.1."""
        return self._make(self._vector("decay_bias", shape, axes, InverseSoftplus(0.001, 0.1)), shape, self._next_key())

    def constant(self, role: Role, value: float, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
        """Makes a parameter whose entries all start at one value, such as a norm's scale."""
        return self._make(self._vector(role, shape, axes, ConstantValue(value)), shape)

    def from_values(self, role: Role, values: jax.Array, axes: tuple[str | None, ...]) -> nnx.Param:
        """Makes a parameter with initial values from its module; they may differ from layer to layer."""
        dtype = self.dtype if ROLES[role].storage_dtype == "parameters" else "float32"
        return nnx.Param(values.astype(dtype), spec=self._vector(role, values.shape, axes, None))

    def zeros(self, shape: tuple[int, ...], axes: tuple[str | None, ...], role: Role = "bias") -> nnx.Param:
        """Makes a bias, or another parameter that starts at 0."""
        return self.constant(role, 0.0, shape, axes)

    def _next_key(self) -> Any:
        return None if _without_values.get() else self.rngs.params()

    def _make(self, spec: Spec, shape: tuple[int, ...], key: Any = None) -> nnx.Param:
        assert spec.initializer is not None
        assert len(spec.axes) == len(shape), spec
        dtype = self.dtype if ROLES[spec.role].storage_dtype == "parameters" else "float32"
        if _without_values.get():
            return nnx.Param(jnp.zeros(shape, dtype), spec=spec)
        return nnx.Param(spec.initializer.draw(key, shape).astype(dtype), spec=spec)


def _named(axes: tuple[str | None, ...], shape: tuple[int, ...], chosen: Iterable[int]) -> dict[str, int]:
    """Returns the sizes of the chosen axes that have names."""
    return {name: shape[i] for i in chosen if (name := axes[i]) is not None}


def specs_of(state: nnx.State) -> Any:
    """Returns the specs of a module's parameters, from its state, as a tree of nested dicts."""
    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    return nnx.to_pure_dict(jax.tree.map(lambda v: nnx.Param(v.get_metadata()["spec"]), state, is_leaf=is_variable))


def stack_modules(build: Callable[..., nnx.Module], *inputs: jax.Array) -> nnx.Module:
    """Builds a module for each row of the arrays `inputs`, such as keys, as one module with a first axis `layer`."""
    module: nnx.Module = nnx.vmap(build)(*inputs)
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Variable):
            node.set_metadata(spec=node.get_metadata()["spec"].stacked("layer"))
    return module


def maker_of(config: "ModelConfig") -> Callable[..., ParameterMaker]:
    """Returns the function that makes a model's maker from a key and a growth; by default that outside of layers."""

    def make(key: jax.Array, growth: ModelGrowth = config.growth.outside_of_layers) -> ParameterMaker:
        layers, precision = config.parametrization.initial_layers(config.num_layers), config.precision
        formats = precision.parameters, growth, precision.products, precision.weights
        return ParameterMaker(key, config.initialization, layers, *formats, config.adapters)

    return make
