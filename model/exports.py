"""What a room gives to those who name no file of it: `from model.attention import GroupedQuery`.

A module is imported when one of its names is asked for, and not before: the modules of a room import those of others,
and would wait for each other in a circle.
"""

import importlib
from collections.abc import Callable
from typing import Any


def exports(package: str, **names: str) -> tuple[list[str], Callable[[str], Any]]:
    """The `__all__` and the `__getattr__` of a package, from the names of each module, separated by spaces."""
    module_of = {name: module for module, listed in names.items() for name in listed.split()}

    def look_up(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)

    return sorted(module_of), look_up
