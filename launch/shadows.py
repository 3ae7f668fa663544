"""Files in the folder that a command is started in, and which Python would import instead of what is meant.

`python -m` looks there first: a `model.py` there hides Cairn's own package `model`, and a `random.py` hides Python's
module. Either would end in a traceback from somewhere else. A `launch.py` there hides this very package, so that only
Python can say something.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

TYPE_CHECKING = False  # which need not be imported: only modules that Python has loaded by now are safe to import here
if TYPE_CHECKING:
    from typing import NoReturn

PACKAGES = ("model", "train")  # which every command imports
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOMS = ("model", "train", "configs", "launch", "tests")


def refuse() -> None:
    """Ends the process when Cairn's own packages are hidden, and later, when an import would take a wrong file."""
    if sys.flags.safe_path:  # python -P: that folder is not looked in
        return
    for name in PACKAGES:
        if (place := hidden_by(name)) is not None:
            _end(name, place, f"Cairn's own package {os.path.join(ROOT, name)}")
    sys.meta_path.insert(0, _Refusing(lookalikes(sys.path[0], sys.path[1:]), sys.path[0]))


def hidden_by(name: str) -> str | None:
    """The file or folder that `import name` takes instead of the package beside this one; None if it is that one."""
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    spec = next((spec for spec in specs if spec is not None), None)
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    own = os.path.realpath(os.path.join(ROOT, name))
    wrong = [place for place in places if os.path.realpath(place) not in (own, os.path.join(own, "__init__.py"))]
    return wrong[0] if wrong else None


def lookalikes(folder: str, others: list[str]) -> dict[str, tuple[str, str]]:
    """For modules of a folder that hide one of Python's, or an installed one: their path, and what they hide."""
    found: dict[str, tuple[str, str]] = {}
    try:
        entries = sorted(os.listdir(folder))
    except OSError:  # a folder that may be entered and not listed: Python says what it finds there
        return found
    for entry in entries:
        path, name = os.path.join(folder, entry), entry.partition(".")[0]
        is_module = entry.endswith((*importlib.machinery.SOURCE_SUFFIXES, *importlib.machinery.EXTENSION_SUFFIXES))
        is_package = os.path.isfile(os.path.join(path, "__init__.py"))
        if not name.isidentifier() or not (is_module or is_package):
            continue
        if os.path.realpath(folder) == os.path.realpath(ROOT) and name in ROOMS:
            continue
        if name in sys.stdlib_module_names:
            found[name] = path, "a module of Python's own library"
        elif importlib.machinery.PathFinder.find_spec(name, others) is not None:
            found[name] = path, "an installed package"
    return found


class _Refusing:
    """The first finder of imports: ends the process where a library, or Cairn, would be given a file that hides.

    A package that a library or Cairn can do without, and that is not installed, is not found in the folder either: a
    folder `datasets` there is the user's data.
    """

    def __init__(self, hiding: dict[str, tuple[str, str]], folder: str) -> None:
        self._hiding, self._folder = hiding, os.path.realpath(folder)
        self._libraries = {os.path.realpath(place) for place in sys.path[1:] if _is_library(place)}
        self._rooms = {os.path.realpath(os.path.join(ROOT, room)) for room in ("model", "train", "launch")}

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if path is not None:
            return
        if name in self._hiding:
            if self._importer() != self._folder:
                place, meant = self._hiding[name]
                _end(name, place, meant)
        elif self._is_here(name) and self._importer() in self._libraries | self._rooms:
            elsewhere = importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if not self._is_folder(p)])
            if elsewhere is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def _is_here(self, name: str) -> bool:
        if name in ROOMS and self._is_folder(ROOT):
            return False
        place = os.path.join(self._folder, name)
        return os.path.isdir(place) or any(os.path.isfile(place + s) for s in importlib.machinery.all_suffixes())

    def _is_folder(self, place: str) -> bool:
        return os.path.realpath(place) == self._folder

    def _importer(self) -> str:
        """The place on the path, or the package of Cairn's, to which the file belongs that has the import in it."""
        frame = sys._getframe(2)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        importer = os.path.realpath(frame.f_code.co_filename)
        known = {*(os.path.realpath(place) for place in sys.path), *self._rooms}
        return max((place for place in known if importer.startswith(os.path.join(place, ""))), key=len, default="")


def _is_library(place: str) -> bool:
    """Whether a place on the path is Python's own library, or has the packages that are installed."""
    return os.path.basename(place) in ("site-packages", "dist-packages") or place == os.path.dirname(os.__file__)


def _end(name: str, place: str, meant: str) -> NoReturn:
    print(
        f"error: {place} hides {meant}: `import {name}` finds it first, because Python looks into the folder that a "
        "command is started in before all others. Rename it, or start the command in another folder",
        file=sys.stderr,
    )
    raise SystemExit(2)
