"""The backward pass computes some intermediates again instead of keeping them: what it keeps, by option.

Automatic differentiation keeps every intermediate that a derivative needs. Whole layers start again from their inputs
by `jax.checkpoint` (`ModelConfig.remat`), cheap functions by `recomputed`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax

from model.options.words import nearest
from model.taps.meanings import EARLIER, TAPS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveOnly:
    """Layers keep their inputs and some taps for the backward pass, which computes all else again.

    Attributes:
      taps: their names; those of model/taps/meanings.py that a layer has and that it computes with.
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
    """The taps that are saved by name."""
    return frozenset(remat.taps) if isinstance(remat, SaveOnly) else frozenset()


def rematerialized(function: Callable[..., Any], remat: Remat, scanned: bool) -> Callable[..., Any]:
    """The function of a layer, of which the backward pass computes again what the option says."""
    if remat == "none":
        return function
    if isinstance(remat, SaveOnly):
        policy = jax.checkpoint_policies.save_only_these_names(*remat.taps)
    else:
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    # Without the barrier a compiler merges what is computed again with what was; a scan keeps them apart.
    return jax.checkpoint(function, policy=policy, prevent_cse=not scanned)


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function of arrays, with the same derivative, keeping nothing but its inputs for the backward pass.

    For functions that cost less than writing and reading their intermediates, on every kind of device: four arrays for
    one exact GELU (measured on a CPU: tests/benchmarks/README.md). Unlike `jax.checkpoint` this leaves no barrier that
    keeps a compiler from fusing.
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
