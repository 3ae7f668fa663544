"""The kernels that a model may use, as an option, and a record of those that a program does use."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from model.errors import UserError
from model.options.words import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernels that a model may use, by name and in the order in which they are asked; () for all of them.

    Each call takes the first that supports it; launch.train and launch.bench print which that was, and why not those
    before it. A call that none of them supports is refused.

    Attributes:
      attention: names from KERNELS of model/kernels.
      experts: names from KERNELS of model/parameters/grouped_products.py, for `Dropless` experts.
    """

    attention: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        from model import kernels
        from model.parameters import grouped_products

        known = {
            "attention": [kernel.name for kernel in kernels.KERNELS],
            "experts": [kernel.name for kernel in grouped_products.KERNELS],
        }
        for field, names in known.items():
            chosen = getattr(self, field)
            for name in dict.fromkeys(chosen):
                if name not in names:
                    yield field, f"no kernel is called {name!r}; {nearest(name, names)}"
                elif chosen.count(name) > 1:
                    yield field, f"names {name!r} twice"


class OfPlatforms(Protocol):
    """The part of a kernel that its choice needs."""

    @property
    def name(self) -> str:
        """The name of the kernel."""

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that it runs on; () for all of them."""

    def supports(self, request: Any) -> str | None:
        """Returns None if the kernel takes a request, else the reason why it does not."""


K = TypeVar("K", bound=OfPlatforms)


def named(names: Sequence[str], kernels: tuple[K, ...]) -> tuple[K, ...]:
    """Returns the kernels with these names, in this order; all kernels if there are no names."""
    known = {kernel.name: kernel for kernel in kernels}
    return tuple(known[name] for name in names) if names else kernels


def first_that_supports(request: Any, kernels: tuple[K, ...], use: str) -> tuple[K, dict[str, str]]:
    """Returns the first kernel that supports a request, and the reasons of those before it, by name.

    Raises UserError, with all reasons, if none does; `use` says what the kernels are for.
    """
    refused: dict[str, str] = {}
    for kernel in kernels:
        reason = kernel.supports(request)
        if reason is None:
            return kernel, refused
        refused[kernel.name] = reason
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise UserError(f"no {use} supports this request on a {request.platform}: {reasons}")


def of_platform(refused: dict[str, str], kernels: Sequence[OfPlatforms], platform: str | None) -> dict[str, str]:
    """Returns the reasons without those of kernels that are for other platforms."""
    others = [kernel.name for kernel in kernels if kernel.platforms and platform not in kernel.platforms]
    return {name: reason for name, reason in refused.items() if name not in others}


_RECORD: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("chosen_kernels", default=None)


@contextlib.contextmanager
def recorded_choices() -> Iterator[list[str]]:
    """Collects, from programs that are traced inside, a line for each different choice of a kernel."""
    lines: list[str] = []
    token = _RECORD.set(lines)
    try:
        yield lines
    finally:
        _RECORD.reset(token)


def record_choice(use: str, choice: object) -> None:
    """Adds a choice to the record, if there is one: the use of the kernel, then the choice in words."""
    if (lines := _RECORD.get()) is not None and (line := f"{use}: {choice}") not in lines:
        lines.append(line)


def in_words(name: str, refused: dict[str, str]) -> str:
    """Returns the name of a chosen kernel, and the kernels that were asked before it, each with its reason."""
    reasons = "; ".join(f"not {other}: {reason}" for other, reason in refused.items())
    return f"{name} ({reasons})" if reasons else name
