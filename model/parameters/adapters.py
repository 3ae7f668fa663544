"""Adapters: a frozen matrix W and a trained change of low rank.

`LoRA` (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3) multiplies by W + s A B with A
of R columns and B of R rows, s = alpha / R; B starts at 0, so that the model starts as it was. With R large that change
is too small: s = alpha / sqrt(R) (Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
theorem 3.2). `DoRA` (Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", equations 5 and 11) multiplies by
m (W + s A B) / |W + s A B|, where | | is the norm over the inputs of each output, which gradients take for a constant,
and m is trained and starts at |W|.

A product is x W + s (x A) B: W + s A B is never made, nor a gradient of that shape. W may be quantised (Dettmers et al.
2023, "QLoRA: Efficient Finetuning of Quantized LLMs", equation 5). Everything but adapters and other added parts is
frozen, by its spec.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from model.options.words import nearest
from model.parameters.quantized_weights import QuantizedMatrix, dequantize, unpack
from model.parameters.specs import Spec

if TYPE_CHECKING:  # the maker builds adapters
    from model.parameters.maker import ParameterMaker

ROLES = ("projection", "value", "residual")  # of matrices that `project` multiplies
BASE, A, B, MAGNITUDE = "base", "lora_a", "lora_b", "magnitude"  # the parts of an adapted matrix
SMALLEST = 2.0**-126


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """Trains W + s A B in place of W.

    Matrices of which a layer has several, such as those of experts, stay as they are.

    Attributes:
      rank: R.
      alpha: s is alpha / R, or alpha / sqrt(R).
      scaling: what divides alpha: "rank", or "sqrt_rank".
      roles: the roles of the adapted matrices (model/parameters/specs.py); after a colon an axis of theirs, which
        chooses some of a role: "projection:heads" are queries, "value:kv_heads" values, "residual:ffn" the last
        matrices of feed-forward layers.
    """

    rank: int = 8
    alpha: float = 16.0
    scaling: Literal["rank", "sqrt_rank"] = "rank"
    roles: tuple[str, ...] = ROLES

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.rank < 1:
            yield "rank", f"must be at least 1, got {self.rank}"
        if self.alpha <= 0:
            yield "alpha", f"must be above 0, got {self.alpha}"
        if not self.roles:
            yield "roles", f"names nothing to adapt; give some of {', '.join(ROLES)}"
        for entry in self.roles:
            if (role := entry.partition(":")[0]) not in ROLES:
                yield (
                    "roles",
                    f"{role!r} is no role of matrices with adapters: {', '.join(ROLES)}; {nearest(role, ROLES)}",
                )

    def problems_with(self, specs: Any) -> Iterator[tuple[str, str]]:
        """Yields the entries of `roles` that choose no matrix of a model, from the tree of its specs."""
        adapted = [node[BASE] for node in branches(specs).values()]
        known = [spec for spec in jax.tree.leaves(adapted) if spec.role in ROLES]
        for entry in self.roles:
            if not any(_chooses(entry, spec) for spec in known):
                axes = sorted({axis for spec in known for axis in _axes(spec)})
                yield "roles", f"{entry!r} chooses no matrix of this model; axes of those chosen are {', '.join(axes)}"

    @property
    def scale(self) -> float:
        """The factor s."""
        return self.alpha / (self.rank if self.scaling == "rank" else self.rank**0.5)

    def adapts(self, spec: Spec) -> bool:
        """Returns whether a matrix gets an adapter; `spec` is not stacked."""
        single = len(spec.inputs) + len(spec.outputs) == len(spec.axes)
        return single and bool(spec.outputs) and any(_chooses(entry, spec) for entry in self.roles)

    def build(
        self, base: nnx.Param | QuantizedMatrix, spec: Spec, shape: tuple[int, ...], make: "ParameterMaker"
    ) -> "AdaptedMatrix":
        """Returns the matrix with its adapter.

        Args:
          base: the matrix.
          spec: its spec.
          shape: its shape.
          make: the maker.
        """
        inputs = len(spec.inputs)
        a = make.adapter((*shape[:inputs], self.rank), (*spec.axes[:inputs], None), inputs)
        b = make.adapter((self.rank, *shape[inputs:]), (None, *spec.axes[inputs:]), 1, zero=True)
        return AdaptedMatrix(base, a, b, self.scale, self._magnitude(base, spec, make))

    def _magnitude(self, base: nnx.Param | QuantizedMatrix, spec: Spec, make: "ParameterMaker") -> nnx.Param | None:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """Trains m (W + s A B) / |W + s A B| in place of W; fields as for `LoRA`."""

    def _magnitude(self, base: nnx.Param | QuantizedMatrix, spec: Spec, make: "ParameterMaker") -> nnx.Param | None:
        inputs = len(spec.inputs)
        w = base[...].astype(jnp.float32)
        return make.from_values("magnitude", _norms(w, inputs), spec.axes[inputs:])


Adapters = LoRA | DoRA


def _chooses(entry: str, spec: Spec) -> bool:
    role, _, axis = entry.partition(":")
    return spec.role == role and (not axis or axis in _axes(spec))


def _axes(spec: Spec) -> set[str]:
    return {name for i in (*spec.inputs, *spec.outputs) if (name := spec.axes[i]) is not None}


class AdaptedMatrix(nnx.Module):
    """Takes the place of the parameter of a matrix."""

    def __init__(
        self,
        base: nnx.Param | QuantizedMatrix,
        a: nnx.Param,
        b: nnx.Param,
        scale: float,
        magnitude: nnx.Param | None = None,
    ) -> None:
        """Args: the frozen matrix, A (*inputs, R), B (R, *outputs), s, and the magnitudes m (*outputs) of DoRA."""
        self.base, self.lora_a, self.lora_b, self.magnitude, self.scale = base, a, b, magnitude, scale

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix."""
        shape: tuple[int, ...] = self.base.shape
        return shape

    def __getitem__(self, index: Any) -> jax.Array:
        """Returns the whole matrix, for uses other than a product of activations."""
        magnitude = None if self.magnitude is None else self.magnitude[...]
        whole = merged_matrix(self.base[...], self.lora_a[...], self.lora_b[...], self.scale, magnitude)
        return whole[index]

    def output_factors(self) -> jax.Array | None:
        """Returns m / |W + s A B| of each output, (*outputs); None for LoRA."""
        if self.magnitude is None:
            return None
        norms = adapted_norms(self.base[...], self.lora_a[...], self.lora_b[...], self.scale)
        return self.magnitude[...].astype(jnp.float32) / norms


def adapted_norms(w: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """Returns |W + s A B| over the inputs, float32 (*outputs), without a gradient and without W + s A B.

    |W_f + s A B_f|^2 = |W_f|^2 + 2 s B_f . A^T W_f + s^2 B_f . A^T A B_f.
    """
    w, a, b = (jax.lax.stop_gradient(x).astype(jnp.float32) for x in (w, a, b))
    inputs = tuple(range(a.ndim - 1))
    aw = jnp.tensordot(a, w, (inputs, inputs))
    gram = jnp.tensordot(a, a, (inputs, inputs))
    squares = jnp.sum(w * w, inputs) + jnp.sum(b * (2 * scale * aw + scale**2 * jnp.tensordot(gram, b, 1)), 0)
    return jnp.sqrt(jnp.maximum(squares, SMALLEST))


def _norms(w: jax.Array, inputs: int) -> jax.Array:
    return jnp.sqrt(jnp.maximum(jnp.sum(w * w, tuple(range(inputs))), SMALLEST))


def merged_matrix(w: jax.Array, a: jax.Array, b: jax.Array, scale: float, magnitude: jax.Array | None) -> jax.Array:
    """Returns the matrix that an adapted one multiplies by, in the dtype of W."""
    whole = w.astype(jnp.float32) + scale * jnp.tensordot(a.astype(jnp.float32), b.astype(jnp.float32), 1)
    if magnitude is not None:
        norms = jax.lax.stop_gradient(_norms(whole, a.ndim - 1))
        whole = whole * (magnitude.astype(jnp.float32) / norms)
    return whole.astype(w.dtype)


# ------------------------------------------------------------------------------------------------- trees of parameters


def is_adapted(node: Any) -> bool:
    """Returns whether a branch of a tree of parameters, or of specs, is an adapted matrix."""
    return isinstance(node, dict) and BASE in node and A in node


def _for_each_layer(function: Any, spec_of_a: Spec) -> Any:
    """Returns the function of one adapter as one of stacks of them."""
    for _ in range(spec_of_a.inputs[0]):
        function = jax.vmap(function)
    return function


def _whole(node: Any, specs: Any) -> jax.Array:
    """Returns the matrix of a branch that is a parameter, or a quantised matrix."""
    if not isinstance(specs, dict):
        return node
    values, spec = node["values"], specs["values"]
    return dequantize(unpack(values, spec.inputs[-1]) if spec.format == "packed_int4" else values, node["scales"])


def merge_adapters(params: Any, specs: Any, option: Adapters) -> Any:
    """Returns the parameters of the model without adapters that computes the same; quantised matrices become float32.

    Args:
      params: the parameters.
      specs: their specs.
      option: the model's adapters.
    """

    def merged(node: Any, known: Any) -> jax.Array:
        magnitude = (node[MAGNITUDE],) if MAGNITUDE in node else ()

        def one(w: jax.Array, a: jax.Array, b: jax.Array, *m: jax.Array) -> jax.Array:
            return merged_matrix(w, a, b, option.scale, m[0] if m else None)

        whole = _for_each_layer(one, known[A])(_whole(node[BASE], known[BASE]), node[A], node[B], *magnitude)
        return whole

    def dequantized(tree: Any, known: Any) -> Any:
        if is_adapted(known):
            return merged(tree, known)
        if isinstance(known, dict) and known.keys() == {"values", "scales"}:
            return _whole(tree, known)
        return {k: dequantized(tree[k], below) for k, below in known.items()} if isinstance(known, dict) else tree

    return dequantized(params, specs)


def branches(specs: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the branch of each adapted matrix in a tree of specs, by its dotted name."""
    if is_adapted(specs):
        return {".".join(path): specs}
    found: dict[str, Any] = {}
    for key, below in specs.items() if isinstance(specs, dict) else ():
        found |= branches(below, (*path, key))
    return found


def on_base(drawn: Any, specs: Any, base: Any) -> Any:
    """Returns parameters with the matrices of a model without adapters in place of those that were drawn.

    The magnitudes of DoRA are the norms of these matrices.
    """

    def placed(node: Any, known: Any, given: Any) -> Any:
        if is_adapted(known):
            node = {**node, BASE: given}
            if MAGNITUDE in node:
                norms = _for_each_layer(lambda w, a: _norms(w.astype(jnp.float32), a.ndim - 1), known[A])
                node[MAGNITUDE] = norms(_whole(given, known[BASE]), node[A]).astype(node[MAGNITUDE].dtype)
            return node
        if not isinstance(known, dict):
            return given
        return {k: placed(x, known[k], given[k]) if k in given else x for k, x in node.items()}

    return placed(drawn, specs, base)
