"""Parameters that a run leaves as they are: they get no gradient, no moments and no decay.

They are named by their role (model/specs.py) or by the part of the model that holds them, the first word of their
dotted name. What they are is written into their specs, which everything that sorts parameters reads.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from model.options import nearest
from model.specs import ROLES, Spec, named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """The parameters that stay as they start; none by default.

    Attributes:
      roles: such as "embedding" or "scale": every parameter of that role, wherever it lies.
      parts: such as "embedding" or "blocks": every parameter of that part of the model, whatever its role.
    """

    roles: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def holds(self, part: str, spec: Spec) -> bool:
        """Whether a parameter is frozen. One that the optimizer does not move anyway is not."""
        return spec.traits.trained and (spec.role in self.roles or part in self.parts)

    def problems_with(self, specs: Any) -> Iterator[tuple[str, str]]:
        """Yields what does not fit a model's parameters (the tree of their specs)."""
        known = named(specs)
        roles = {spec.role for spec in known.values() if spec.traits.trained}
        for entry in self.roles:
            if entry in ROLES and entry not in roles:
                why = "is no role that is trained" if not ROLES[entry].trained else "is the role of no parameter here"
                yield "roles", f"{entry!r} {why}; roles of this model are {', '.join(sorted(roles))}"
            elif entry not in roles:
                yield (
                    "roles",
                    f"nothing is called {entry!r}; roles are {', '.join(sorted(roles))}; {nearest(entry, roles)}",
                )
        for entry in self.parts:
            if entry not in specs:
                yield "parts", f"nothing is called {entry!r}; parts are {', '.join(specs)}; {nearest(entry, specs)}"
        if all(self.holds(name.partition(".")[0], spec) for name, spec in known.items() if spec.traits.trained):
            yield ("parts" if self.parts else "roles"), "every parameter is frozen, so that there is nothing to train"


def frozen_in(specs: Any, frozen: Frozen) -> Any:
    """The tree of a model's specs, those of frozen parameters marked."""
    return {
        part: jax.tree.map(lambda s: dataclasses.replace(s, frozen=True) if frozen.holds(part, s) else s, tree)  # noqa: B023
        for part, tree in specs.items()
    }
