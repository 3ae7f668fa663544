"""Rematerialisation: the backward pass computes some intermediates again instead of keeping them.

Automatic differentiation keeps every intermediate that a derivative needs. `jax.checkpoint` recomputes whole layers
from their inputs (`ModelConfig.remat`); `recomputed` does the same for cheap functions.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from flax import nnx

from model.options.words import nearest
from model.parameters.mixed_precision import WEIGHT_PRODUCT
from model.taps.meanings import EARLIER, TAPS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveOnly:
    """Layers keep their inputs and some taps for the backward pass, which recomputes all other intermediates.

    Attributes:
      taps: names from model/taps/meanings.py; the layer has these taps and computes with them.
      offload: names of further taps, which wait for the backward pass in the memory of the host. Each is copied there
        and back while the device computes; it pays where a copy is faster than the recomputation and memory is short.
    """

    taps: tuple[str, ...]
    offload: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not self.taps and not self.offload:
            yield "taps", "name at least one, or take remat='full', which saves none"
        can = [name for name, meaning in TAPS.items() if meaning.editable]
        for field, names in (("taps", self.taps), ("offload", self.offload)):
            for name in dict.fromkeys(names):
                if name not in can:
                    fault = "the model computes nothing with tap" if name in TAPS else "no tap is called"
                    yield field, f"{fault} {name!r}; {nearest(EARLIER.get(name, name), can)}"
                elif (*self.taps, *self.offload).count(name) > 1 and (field == "taps" or name not in self.taps):
                    yield field, f"names {name!r} twice" if names.count(name) > 1 else f"offload names {name!r} too"


HOST_MEMORY = "pinned_host"  # the name in JAX for memory of the host that devices copy from and to by themselves

Remat = Literal["none", "dots", "full"] | SaveOnly


def saved_taps(remat: Remat) -> frozenset[str]:
    """Returns the names of the taps that are saved."""
    return frozenset((*remat.taps, *remat.offload)) if isinstance(remat, SaveOnly) else frozenset()


def rematerialized(function: Callable[..., Any], remat: Remat, scanned: bool) -> Callable[..., Any]:
    """Returns the function of a layer; its backward pass recomputes the intermediates that the option names."""
    if remat == "none":
        return function
    policy: Any
    if isinstance(remat, SaveOnly):
        policy = _saving(remat)
    else:
        policy = _save_weight_products if remat == "dots" else None
    # Without the barrier a compiler merges the recomputation with the first computation; a scan keeps them apart.
    return jax.checkpoint(function, policy=policy, prevent_cse=not scanned)


def _saving(remat: SaveOnly) -> Any:
    """Returns the policy that keeps the taps, some of them in the memory of the host."""
    if not remat.offload:
        return jax.checkpoint_policies.save_only_these_names(*remat.taps)
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=list(remat.taps),
        names_which_can_be_offloaded=list(remat.offload),
        offload_src="device",
        offload_dst=HOST_MEMORY,
    )


_save_weight_products = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(WEIGHT_PRODUCT),
)


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the same function of arrays with the same derivative; it keeps only its inputs for the backward pass.

    For functions that cost less than writing and reading their intermediates, on every kind of device: four arrays for
    one exact GELU (measured on a CPU: tests/benchmarks/README.md). Unlike `jax.checkpoint`, it adds no barrier that
    would stop the compiler from fusing.
    """

    @jax.custom_vjp
    def same(*inputs: jax.Array) -> jax.Array:
        return function(*inputs)

    def forward(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return function(*inputs), inputs

    def backward(inputs: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[Any, ...]:
        return jax.vjp(function, *inputs)[1](cotangent)

    same.defvjp(forward, backward)
    return same


def gradients_together(module: nnx.Module, x: jax.Array) -> tuple[Any, jax.Array]:
    """Returns the same sublayer and its input; their gradients are used when those of all are computed, not before.

    It stops a compiler from delaying the gradients of the weights, for which it would keep the sublayer's intermediates
    while it computes the gradients of earlier sublayers.
    """
    graph, weights = nnx.split(module)
    arrays, structure = jax.tree.flatten((weights, x))
    weights, x = jax.tree.unflatten(structure, _together(arrays))
    return nnx.merge(graph, weights), x


@jax.custom_vjp
def _together(arrays: list[jax.Array]) -> list[jax.Array]:
    return arrays


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Wanted:
    """Which of the arrays need gradients: no others are computed, such as those of frozen weights."""

    arrays: tuple[bool, ...]


def _together_forward(arrays: list[Any]) -> tuple[list[jax.Array], _Wanted]:
    return [array.value for array in arrays], _Wanted(tuple(array.perturbed for array in arrays))


def _together_backward(wanted: _Wanted, gradients: list[Any]) -> tuple[list[Any]]:
    zero = jax.custom_derivatives.SymbolicZero
    known = [each and not isinstance(g, zero) for each, g in zip(wanted.arrays, gradients, strict=True)]
    together = iter(jax.lax.optimization_barrier([g for g, each in zip(gradients, known, strict=True) if each]))
    return ([next(together) if each else None for each in known],)


_together.defvjp(_together_forward, _together_backward, symbolic_zeros=True)
