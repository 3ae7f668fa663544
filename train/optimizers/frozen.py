"""Parameters that a run leaves unchanged: they get no gradient, no moments and no decay.

A config names them by role (model/parameters/specs.py) or by part of the model, the first word of their dotted names.
Their specs are marked, and all code that treats some parameters differently reads the specs.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from model.options.words import nearest
from model.parameters.specs import ROLES, Spec, specs_by_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """The parameters that keep their initial values; none by default.

    Attributes:
      roles: such as "embedding" or "scale": every parameter of that role, in all parts.
      parts: such as "embedding" or "blocks": every parameter of that part of the model, of all roles.
    """

    roles: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def freezes(self, part: str, spec: Spec) -> bool:
        """Whether a parameter is frozen. State that the step itself updates, such as load biases, never is."""
        return spec.traits.trained and (spec.role in self.roles or part in self.parts)

    def problems_with(self, specs: Any) -> Iterator[tuple[str, str]]:
        """Yields the names that no parameter of a model has (the tree of their specs), and a choice of all of them."""
        known = specs_by_name(specs)
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
        moves = (
            name for name, spec in known.items() if spec.trained and not self.freezes(name.partition(".")[0], spec)
        )
        if (self.roles or self.parts) and not any(moves):
            yield ("parts" if self.parts else "roles"), "every parameter is frozen, so that there is nothing to train"


def mark_frozen(specs: Any, frozen: Frozen) -> Any:
    """The tree of a model's specs, with the frozen ones marked."""
    return {
        part: jax.tree.map(lambda s: dataclasses.replace(s, frozen=True) if frozen.freezes(part, s) else s, tree)  # noqa: B023
        for part, tree in specs.items()
    }
