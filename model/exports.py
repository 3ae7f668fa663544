"""Names that a package exports from its modules: `from model.attention import GroupedQuery`.

A module is imported when one of its names is first used, and not before: modules of one package import modules of other
packages, so importing all of them at once would be an import cycle.
"""

import importlib
from collections.abc import Callable
from typing import Any


def exports(package: str, **names: str) -> tuple[list[str], Callable[[str], Any]]:
    """Returns `__all__` and `__getattr__` of a package; `names` maps each module to its names, separated by spaces."""
    module_of = {name: module for module, listed in names.items() for name in listed.split()}

    def getattr_from_module(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)

    return sorted(module_of), getattr_from_module
