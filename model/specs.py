"""What a parameter is: its role, its axes and how it starts, recorded where it is made.

Whoever treats some parameters unlike others (weight decay, Muon, number formats, initial values, conversion) reads the
`Spec` of each, and never its name. `model.transformer.specs` gives the tree of them. A new kind of parameter is a role
of its own, a row of `ROLES`, in which everything about it has to be decided.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax

Role = Literal[
    "embedding",
    "position",
    "unembedding",
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
    "follower",
    "sink",
    "bias",
    "router_bias",
    "decay_rate",
    "decay_bias",
    "load_bias",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What follows from a parameter's role.

    Attributes:
      decayed: whether weight decay takes it, unless the optimizer's option says otherwise.
      hidden: whether it is a matrix from one hidden vector to another, which Muon orthogonalises.
      stored, used: the formats in which it is kept and in which the forward pass has it: a field of `Precision`, or
        float32 whatever the precision is.
      trained: whether the optimizer moves it; if not, it is state that the step moves.
    """

    decayed: bool
    hidden: bool = False
    stored: Literal["parameters", "float32"] = "parameters"
    used: Literal["compute", "float32"] = "compute"
    trained: bool = True


_MATRIX = Traits(decayed=True, hidden=True)
_VECTOR = Traits(decayed=False)

ROLES: dict[Role, Traits] = {
    # Tables: of tokens and positions to vectors, and of vectors to logits.
    "embedding": Traits(decayed=True),
    "position": Traits(decayed=True),
    "unembedding": Traits(decayed=True),
    # Matrices inside the layers; a `value` is written to the stream by way of a `residual`.
    "projection": _MATRIX,
    "value": _MATRIX,
    "residual": _MATRIX,
    "recurrent": _MATRIX,
    # Near ties between experts must not depend on rounding.
    "router": dataclasses.replace(_MATRIX, used="float32"),
    "router_bias": dataclasses.replace(_VECTOR, used="float32"),
    "filter": Traits(decayed=True),  # of a short convolution, for each channel: no matrix
    "scale": _VECTOR,
    "gain": _VECTOR,
    "skip": _VECTOR,
    # Weights of streams and of values, which decay would pull to none of them; what makes them follow a token is a
    # product with its streams, from zeros.
    "mixing": _VECTOR,
    "follower": Traits(decayed=True),
    "sink": _VECTOR,
    "bias": _VECTOR,
    # The error of a decay is compounded at every token.
    "decay_rate": dataclasses.replace(_VECTOR, used="float32"),
    "decay_bias": dataclasses.replace(_VECTOR, used="float32"),
    "load_bias": Traits(decayed=False, stored="float32", used="float32", trained=False),
}


class Start(Protocol):
    """A rule for initial values; model/parameters.py has them."""

    def draw(self, key: Any, shape: tuple[int, ...]) -> jax.Array:
        """Initial values, float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """A parameter.

    Attributes:
      role: what it is for.
      axes: a logical name for each of its axes, None for one that is never split.
      inputs, outputs: of a matrix, the axes that a product contracts and those that it makes. The other axes (layers,
        experts, heads of a recurrent matrix) count matrices that have nothing to do with each other. Both are empty
        where there is no matrix.
      start: how it starts; None where its module computes that.
      frozen: whether a run leaves it as it is, although its role is trained.
    """

    role: Role
    axes: tuple[str | None, ...]
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    start: Start | None = None
    frozen: bool = False

    @property
    def trained(self) -> bool:
        """Whether the optimizer moves it."""
        return self.traits.trained and not self.frozen

    @property
    def traits(self) -> Traits:
        """What follows from the role."""
        return ROLES[self.role]

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether it is a matrix, or several, from one hidden vector to another."""
        return self.traits.hidden and bool(self.inputs and self.outputs)

    def stacked(self, axis: str) -> "Spec":
        """The spec of several such parameters, stacked along an axis in front."""
        inputs, outputs = (tuple(i + 1 for i in some) for some in (self.inputs, self.outputs))
        return dataclasses.replace(self, axes=(axis, *self.axes), inputs=inputs, outputs=outputs)


def is_trained(name: str, spec: Spec) -> bool:
    """Whether the optimizer moves a parameter, as a choice for `split`."""
    return spec.trained


def is_frozen(name: str, spec: Spec) -> bool:
    """Whether nothing moves a parameter, as a choice for `split`."""
    return spec.frozen


def named(specs: Any) -> dict[str, Spec]:
    """The specs of a tree by dotted name, such as `blocks.attention.query`."""
    paths = jax.tree_util.tree_leaves_with_path(specs)
    return {".".join(str(key.key) for key in path): spec for path, spec in paths}


def split(tree: Any, specs: Any, chosen: Callable[[str, Spec], bool], above: str = "") -> tuple[Any, Any]:
    """The part of a tree that is chosen, and the rest of it; neither has empty branches.

    Args:
      tree: arrays, shapes, placements or specs, one for each parameter.
      specs: the tree of `model.transformer.specs`.
      chosen: says of a parameter's dotted name and spec whether it is chosen.
      above: the dotted name of the tree, with a dot at its end.
    """
    parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for key, spec in specs.items():
        name = f"{above}{key}"
        if isinstance(spec, Spec):
            parts[0 if chosen(name, spec) else 1][key] = tree[key]
            continue
        for part, below in zip(parts, split(tree[key], spec, chosen, f"{name}."), strict=True):
            if below:
                part[key] = below
    return parts


def merged(one: Any, other: Any) -> Any:
    """The inverse of `split`: one tree of nested dicts from two that have no leaf in common."""
    both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys()}
    return {**one, **other, **both}
