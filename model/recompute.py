"""Rematerialisation: the backward pass computes some intermediates again instead of keeping them.

Automatic differentiation keeps every intermediate that a derivative needs. `jax.checkpoint` recomputes whole layers
from their inputs (`ModelConfig.remat`); `recomputed` does the same for cheap functions.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax

from model.options.words import nearest
from model.parameters.mixed_precision import WEIGHT_PRODUCT
from model.taps.meanings import EARLIER, TAPS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveOnly:
    """Layers keep their inputs and some taps for the backward pass, which recomputes all other intermediates.

    Attributes:
      taps: names from model/taps/meanings.py; the layer has these taps and computes with them.
    """

    taps: tuple[str, ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not self.taps:
            yield "taps", "name at least one, or take remat='full', which saves none"
        can = [name for name, meaning in TAPS.items() if meaning.editable]
        for name in dict.fromkeys(self.taps):
            if name not in can:
                fault = "the model computes nothing with tap" if name in TAPS else "no tap is called"
                yield "taps", f"{fault} {name!r}; {nearest(EARLIER.get(name, name), can)}"
            elif self.taps.count(name) > 1:
                yield "taps", f"names {name!r} twice"


Remat = Literal["none", "dots", "full"] | SaveOnly


def saved_taps(remat: Remat) -> frozenset[str]:
    """Returns the names of the taps that are saved."""
    return frozenset(remat.taps) if isinstance(remat, SaveOnly) else frozenset()


def rematerialized(function: Callable[..., Any], remat: Remat, scanned: bool) -> Callable[..., Any]:
    """Returns the function of a layer; its backward pass recomputes the intermediates that the option names."""
    if remat == "none":
        return function
    if isinstance(remat, SaveOnly):
        policy = jax.checkpoint_policies.save_only_these_names(*remat.taps)
    else:
        policy = _save_weight_products if remat == "dots" else None
    # Without the barrier a compiler merges the recomputation with the first computation; a scan keeps them apart.
    return jax.checkpoint(function, policy=policy, prevent_cse=not scanned)


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


@jax.custom_vjp
def gradients_together(tree: Any) -> Any:
    """Returns the same arrays; no operation may use the gradient of one of them before those of all are computed.

    Around a sublayer's input and weights it stops a compiler from delaying the gradients of the weights, for which it
    would keep the sublayer's intermediates while it computes the gradients of earlier sublayers.
    """
    return tree


def _together_forward(tree: Any) -> tuple[Any, None]:
    return tree, None


def _together_backward(_: None, gradients: Any) -> tuple[Any]:
    return (jax.lax.optimization_barrier(gradients),)


gradients_together.defvjp(_together_forward, _together_backward)
