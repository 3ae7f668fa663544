"""The kernels that a model may use, as an option, and a record of those that a program does use."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

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
