"""The kernels that a model may use, as an option, and a record of those that a program does use."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

from model.errors import UserError
from model.options.words import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernels that a model may use, by name and in the order in which they are asked; () for all of them.

    Each call takes the first that supports it; launch.train and launch.bench print which that was, and why not those
    before it. A call that none of them supports is refused.

    Attributes:
      attention: names from KERNELS of model/kernels.
      experts: names from KERNELS of model/kernels/experts, for `Dropless` experts.
    """

    attention: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for field in dataclasses.fields(self):
            chosen, names = getattr(self, field.name), [kernel.name for kernel in known(field.name)]
            for name in dict.fromkeys(chosen):
                if name not in names:
                    yield field.name, f"no kernel is called {name!r}; {nearest(name, names)}"
                elif chosen.count(name) > 1:
                    yield field.name, f"names {name!r} twice"

    def named(self, use: str) -> tuple[Any, ...]:
        """Returns the kernels that may run for a use, in the order in which they are asked."""
        names, kernels = getattr(self, use), known(use)
        by_name = {kernel.name: kernel for kernel in kernels}
        return tuple(by_name[name] for name in names) if names else kernels


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


class Asks(Protocol):
    """The part of a request that the choice of its kernel needs."""

    use: ClassVar[str]

    @property
    def platform(self) -> str:
        """The platform that runs the kernel."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The kernel that takes a request, and why kernels that were asked before it do not.

    Attributes:
      kernel: the kernel.
      refused: the reasons of the others, by their names.
      elsewhere: the names of those among them that are for other platforms.
    """

    kernel: Any
    refused: dict[str, str]
    elsewhere: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Names the kernel, and those for the same platform that were asked before it, each with its reason."""
        asked = {name: reason for name, reason in self.refused.items() if name not in self.elsewhere}
        reasons = "; ".join(f"not {name}: {reason}" for name, reason in asked.items())
        return f"{self.kernel.name} ({reasons})" if reasons else str(self.kernel.name)


def known(use: str) -> tuple[Any, ...]:
    """Returns all kernels for a use, a field of `Kernels`, in the order in which they are asked."""
    from model import kernels
    from model.kernels import experts

    return {"attention": kernels.KERNELS, "experts": experts.KERNELS}[use]


def runs_on(kernel: OfPlatforms, platform: str) -> bool:
    """Whether a kernel is for a platform."""
    return not kernel.platforms or platform in kernel.platforms


def choose(request: Asks, kernels: Sequence[Any] = ()) -> Choice:
    """Returns the first kernel that supports a request, of those given, or of all for its use if none are given.

    Raises UserError, with all reasons, if none supports it.
    """
    refused: dict[str, str] = {}
    elsewhere: list[str] = []
    for kernel in kernels or known(request.use):
        reason = kernel.supports(request)
        if reason is None:
            return Choice(kernel, refused, tuple(elsewhere))
        refused[kernel.name] = reason
        elsewhere += [] if runs_on(kernel, request.platform) else [kernel.name]
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise UserError(f"no kernel for {request.use} supports this request on a {request.platform}: {reasons}")


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


@contextlib.contextmanager
def choices_said(say: Callable[[str], None]) -> Iterator[None]:
    """Says, after programs were traced inside, which kernels they take."""
    with recorded_choices() as lines:
        yield
    for line in lines:
        say(f"kernel for {line}")


def record_choice(use: str, choice: object) -> None:
    """Adds a choice to the record, if there is one: the use of the kernel, then the choice in words."""
    if (lines := _RECORD.get()) is not None and (line := f"{use}: {choice}") not in lines:
        lines.append(line)
