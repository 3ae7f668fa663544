"""Parameter specs: the role, axes and initial values of a parameter, recorded where the parameter is made.

All code that treats some parameters differently from others (weight decay, Muon, number formats, initial values,
conversion) reads the `Spec` of each parameter, never its name. `model.transformer.specs` returns the tree of specs. A
new kind of parameter needs its own role, a row of `ROLES`, which decides everything about it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax

from model.parameters.names import flatten

Products = Literal["compute", "int8", "float8"]
# How a parameter is stored: in a format of `Precision`, or quantised (model/parameters/quantized_weights.py).
StoredFormat = Literal["float", "int8", "int4", "packed_int4", "float8"]
Role = Literal[
    "embedding",
    "position",
    "unembedding",
    "score",
    "projection",
    "value",
    "residual",
    "recurrent",
    "router",
    "filter",
    "scale",
    "gain",
    "skip",
    "mixing",
    "dynamic_mixing",
    "sink",
    "bias",
    "router_bias",
    "decay_rate",
    "decay_bias",
    "load_bias",
    "quantization_scale",
    "adapter",
    "magnitude",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """The properties that follow from a parameter's role.

    Attributes:
      weight_decay: whether weight decay applies to it, unless the optimizer's option says otherwise.
      hidden: whether it is a matrix from one hidden vector to another, which Muon orthogonalises.
      storage_dtype, compute_dtype: the formats in which it is stored and in which the forward pass uses it: a field of
        `Precision`, or float32 whatever the precision is.
      trained: whether the optimizer updates it; if not, it is state that the training step updates.
      eight_bits: whether `Precision.products` applies to products of activations with it.
      quantized: whether `Precision.weights` applies to it, if it is a matrix.
      added: whether it is of a part that a trained model is given; adapters freeze all parameters but these.
    """

    weight_decay: bool
    hidden: bool = False
    storage_dtype: Literal["parameters", "float32"] = "parameters"
    compute_dtype: Literal["compute", "float32"] = "compute"
    trained: bool = True
    eight_bits: bool = False
    quantized: bool = False
    added: bool = False


_MATRIX = Traits(weight_decay=True, hidden=True)
_VECTOR = Traits(weight_decay=False)

ROLES: dict[Role, Traits] = {
    # Tables: from tokens and positions to vectors, and from vectors to logits.
    "embedding": Traits(weight_decay=True),
    "position": Traits(weight_decay=True),
    "unembedding": Traits(weight_decay=True, quantized=True),
    # From vectors to rewards, whose differences must not depend on rounding.
    "score": Traits(weight_decay=True, compute_dtype="float32", added=True),
    # Matrices inside the layers; a `residual` matrix writes the output of a `value` matrix to the residual stream.
    "projection": dataclasses.replace(_MATRIX, eight_bits=True, quantized=True),
    "value": dataclasses.replace(_MATRIX, eight_bits=True, quantized=True),
    "residual": dataclasses.replace(_MATRIX, eight_bits=True, quantized=True),
    "recurrent": dataclasses.replace(_MATRIX, quantized=True),
    # Near ties between experts must not depend on rounding.
    "router": dataclasses.replace(_MATRIX, compute_dtype="float32"),
    "router_bias": dataclasses.replace(_VECTOR, compute_dtype="float32"),
    "filter": Traits(weight_decay=True),  # the filters of a short convolution, one for each channel, are no matrix
    "scale": _VECTOR,
    "gain": _VECTOR,
    "skip": _VECTOR,
    # Weights of streams and of values: weight decay would pull them to 0, so that no stream or value is used. Dynamic
    # mixing changes the weights of streams from token to token; weight decay pulls this change to 0, and leaves the
    # static weights (Zhu et al. 2024, "Hyper-Connections", section 4, "Implementation").
    "mixing": _VECTOR,
    "dynamic_mixing": Traits(weight_decay=True),
    "sink": _VECTOR,
    "bias": _VECTOR,
    # The error of a decay is compounded at every token.
    "decay_rate": dataclasses.replace(_VECTOR, compute_dtype="float32"),
    "decay_bias": dataclasses.replace(_VECTOR, compute_dtype="float32"),
    "load_bias": Traits(weight_decay=False, storage_dtype="float32", compute_dtype="float32", trained=False),
    "quantization_scale": Traits(weight_decay=False, storage_dtype="float32", compute_dtype="float32", trained=False),
    # The two factors of a change of low rank, and the norms of DoRA; few beside the frozen matrix, so they are float32.
    "adapter": Traits(weight_decay=True, storage_dtype="float32", added=True),
    "magnitude": dataclasses.replace(_VECTOR, storage_dtype="float32", added=True),
}


class Initializer(Protocol):
    """A rule for initial values; model/parameters/maker.py has all rules."""

    def draw(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Returns initial values, float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """How much larger a parameter is than in the base model of its parametrisation, which records it.

    The rules that follow are those of model/parameters/parametrization.py; all are 1 in a base model, and where a model
    has no parametrisation.

    Attributes:
      inputs, outputs: the growth of the numbers of its inputs and outputs; of a vector, the entries are outputs.
      layers: the growth of the number of layers, for a parameter of a layer; 1 for others.
      residual: the parametrisation's factor on the outputs of sublayers, for a parameter of a layer; 1 for others.
    """

    inputs: float = 1.0
    outputs: float = 1.0
    layers: float = 1.0
    residual: float = 1.0

    @property
    def deviation(self) -> float:
        """The factor on the initial deviation: m^-1/2 between hidden vectors, m^-1 to a fixed number of outputs."""
        to_fixed = self.inputs != 1 and self.outputs == 1
        return 1 / self.inputs if to_fixed else self.inputs**-0.5

    @property
    def gradient(self) -> float:
        """The size of its gradients, relative to those in the base model."""
        return self.residual / self.outputs

    @property
    def depth_rate(self) -> float:
        """The factor on the learning rate that is due to the depth."""
        return 1 / (self.layers * self.residual)

    @property
    def adam_rate(self) -> float:
        """The factor on the learning rate of an optimizer whose updates do not depend on the size of gradients."""
        return self.depth_rate / self.inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """The description of a parameter.

    Attributes:
      role: its role.
      axes: a logical name for each of its axes, None for an axis that is never split.
      inputs, outputs: for a matrix, the axes that a product contracts and the axes of its result. The other axes
        (layers, experts, heads of a recurrent matrix) count independent matrices. Both are empty if the parameter is no
        matrix.
      initializer: the rule for its initial values; None if its module computes them.
      frozen: whether a run leaves it unchanged, although its role is trained.
      products: the format of products of activations with it (model/parameters/quantized_products.py).
      format: how it is stored; the values of a quantised matrix are not trained.
      growth: how much larger it is than in the base model of the parametrisation.
    """

    role: Role
    axes: tuple[str | None, ...]
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    initializer: Initializer | None = None
    frozen: bool = False
    products: Products = "compute"
    format: StoredFormat = "float"
    growth: Growth = Growth()

    @property
    def trained(self) -> bool:
        """Whether the optimizer moves it."""
        return self.traits.trained and not self.frozen and self.format == "float"

    @property
    def traits(self) -> Traits:
        """The properties that follow from the role."""
        return ROLES[self.role]

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether it is a matrix, or several matrices, from one hidden vector to another."""
        return self.traits.hidden and bool(self.inputs and self.outputs)

    def stacked(self, axis: str) -> "Spec":
        """Returns the spec of several such parameters, stacked along a new first axis."""
        inputs, outputs = (tuple(i + 1 for i in some) for some in (self.inputs, self.outputs))
        return dataclasses.replace(self, axes=(axis, *self.axes), inputs=inputs, outputs=outputs)


def is_trained(name: str, spec: Spec) -> bool:
    """Returns whether the optimizer updates a parameter, as a choice for `partition`."""
    return spec.trained


def is_frozen(name: str, spec: Spec) -> bool:
    """Returns whether a run leaves a parameter unchanged, as a choice for `partition`."""
    return spec.frozen


def specs_by_name(specs: Any) -> dict[str, Spec]:
    """Returns the specs of a tree by dotted name, such as `blocks.mixer.query`."""
    return flatten(specs)


def partition(tree: Any, specs: Any, chosen: Callable[[str, Spec], bool], prefix: str = "") -> tuple[Any, Any]:
    """Splits a tree into the chosen part and the rest; neither has empty branches.

    Args:
      tree: arrays, shapes, placements or specs, one for each parameter.
      specs: the tree of `model.transformer.specs`.
      chosen: returns whether a parameter is chosen, from its dotted name and its spec.
      prefix: the dotted name of the tree, with a dot at its end.
    """
    parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for key, spec in specs.items():
        name = f"{prefix}{key}"
        if isinstance(spec, Spec):
            parts[0 if chosen(name, spec) else 1][key] = tree[key]
            continue
        for part, below in zip(parts, partition(tree[key], spec, chosen, f"{name}."), strict=True):
            if below:
                part[key] = below
    return parts


def merge(one: Any, other: Any) -> Any:
    """Inverts `partition`: merges two trees of nested dicts that have no leaf in common."""
    both = {key: merge(one[key], other[key]) for key in one.keys() & other.keys()}
    return {**one, **other, **both}
