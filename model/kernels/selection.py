"""The option that chooses among kernels, or leaves some out."""

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
      experts: names from KERNELS of model/kernels/grouped_matmul.py, for `Dropless` experts.
    """

    attention: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        from model import kernels
        from model.kernels import grouped_matmul

        known = {"attention": kernels.KERNELS, "experts": grouped_matmul.KERNELS}
        for field, available in known.items():
            names, chosen = [kernel.name for kernel in available], getattr(self, field)
            for name in dict.fromkeys(chosen):
                if name not in names:
                    yield field, f"no kernel is called {name!r}; {nearest(name, names)}"
                elif chosen.count(name) > 1:
                    yield field, f"names {name!r} twice"
