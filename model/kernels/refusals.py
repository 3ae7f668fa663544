"""Reasons why a kernel of a library does not take a request; each kernel lists its own in the order of its checks."""

import importlib.util
from collections.abc import Iterator
from typing import Protocol

import jax
import jax.numpy as jnp

from model.kernels.request import Request
from model.kernels.visibility import Visibility


class OnPlatform(Protocol):
    """The part of a request that says which devices run it."""

    @property
    def platform(self) -> str:
        """The platform."""


def first(reasons: Iterator[str]) -> str | None:
    """Returns the first reason, or None if there is none: the answer of `Kernel.supports`."""
    return next(reasons, None)


def of_platform(request: OnPlatform, platforms: tuple[str, ...]) -> Iterator[str]:
    """Yields why the platform of a request is not one of a kernel's `platforms`; () for all of them."""
    if platforms and request.platform not in platforms:
        yield f"it runs on a {' or '.join(platforms)}, not on a {request.platform}"


def of_every_library(request: Request, visibility: Visibility | None = None) -> Iterator[str]:
    """Yields parts of a request that no kernel of a library takes.

    The indices are those of `visibility`, if a kernel takes parts of a row (`Visibility.of_whole_row`).
    """
    visibility = request.visibility if visibility is None else visibility
    if request.dropout:
        yield "it has no dropout of weights"
    if visibility.extra_mask is not None:
        yield "it takes no mask as an array"
    if visibility.prefix is not None:
        yield "it has no prefix that is seen from both sides"
    if not visibility.indices_are_static:
        yield "indices are known only to arrays, and it needs them while tracing"
    if request.scoring.reductions != "float32":
        yield f"its scores are float32, not {request.scoring.reductions}"


def of_dtypes(request: Request, allowed: tuple[str, ...]) -> Iterator[str]:
    """Yields why the dtypes of queries, keys and values are not `allowed`."""
    names = sorted({jnp.dtype(x.dtype).name for x in (request.q, request.k, request.v)})
    if len(names) > 1:
        yield f"queries, keys and values have the dtypes {', '.join(names)}, and it needs one"
    elif names[0] not in allowed:
        yield f"it takes {' and '.join(allowed)}, not {names[0]}"


def of_scores_and_widths(request: Request) -> Iterator[str]:
    """Yields soft-caps, sinks, and values of another width than queries."""
    if request.scoring.softcap is not None:
        yield "it has no soft-cap"
    if request.has_sinks:
        yield "it has no sinks"
    if request.v.shape[-1] != request.q.shape[-1]:
        yield f"its queries and values have one width, not {request.q.shape[-1]} and {request.v.shape[-1]}"


def of_pages(request: Request) -> Iterator[str]:
    """Yields why a request is not one query a row that sees all keys in cleared pages up to its own index."""
    visibility, pages, queries = request.visibility, request.pages, request.q.shape[1]
    if pages is None:
        yield "it reads keys in pages, and these lie in arrays"
        return
    if queries != 1:
        yield f"it takes one query a row, not {queries:,}"
    if request.dropout:
        yield "it has no dropout of weights"
    if request.bias is not None:
        yield "it adds no bias to scores"
    if request.has_sinks:
        yield "it has no sinks"
    if request.scoring.reductions != "float32":
        yield f"its scores are float32, not {request.scoring.reductions}"
    if request.v.shape != request.k.shape:
        yield f"its keys and values have one width, not {request.k.shape[-1]} and {request.v.shape[-1]}"
    for pattern in visibility.patterns:
        yield f"it has no pattern such as {pattern}"
    keys = visibility.keys
    if not visibility.is_causal or visibility.extra_mask is not None or visibility.has_documents:
        yield "a query sees all keys up to its own index, and no other choice of keys"
    elif keys.index is not None or keys.offset is not None or keys.start:
        yield "its keys have the indices from 0 on"
    if not pages.cleared:
        yield "it gives keys that no query sees the weight 0, and these pages may hold NaN there"


def of_module(name: str) -> Iterator[str]:
    """Yields why a module of this version of JAX is not there; such kernels are experimental."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of a package above it
        found = None
    if found is None:
        yield f"jax {jax.__version__} has no module {name}"


def of_own_keys(request: Request) -> Iterator[str]:
    """Yields why the keys are not those of the queries' own tokens."""
    queries, keys = request.visibility.queries, request.visibility.keys
    if (queries.start, queries.count) != (keys.start, keys.count):
        yield (
            f"queries {queries.start} to {queries.start + queries.count} have the keys {keys.start} to "
            f"{keys.start + keys.count}, and it needs those of the same tokens"
        )
