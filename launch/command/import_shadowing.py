"""Files in the current folder that Python would import in place of Cairn's packages, its own modules or libraries.

`python -m` looks in the current folder first: a `model.py` there hides Cairn's package `model`, and a `random.py` hides
Python's module. Either would end in a traceback from an unrelated file. A `launch.py` there hides this package itself,
so that only Python can report it.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

TYPE_CHECKING = False  # not imported from typing: only modules that Python has already loaded are safe to import here
if TYPE_CHECKING:
    from typing import NoReturn

LIBRARY_PACKAGES = ("model", "train")  # every command imports these
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOP_PACKAGES = ("model", "train", "configs", "launch", "tests")


def exit_if_shadowed() -> None:
    """Ends the process when Cairn's own packages are hidden, and from now on when an import would take a wrong file."""
    if sys.flags.safe_path:  # python -P: Python does not look in that folder
        return
    for name in LIBRARY_PACKAGES:
        if (path := shadowed_by(name)) is not None:
            _exit(name, path, f"Cairn's own package {os.path.join(ROOT, name)}")
    sys.meta_path.insert(0, _ImportGuard(shadowing_modules(sys.path[0], sys.path[1:]), sys.path[0]))


def shadowed_by(name: str) -> str | None:
    """The file or folder that hides Cairn's package `name`; None if `import name` finds Cairn's package."""
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    spec = next((spec for spec in specs if spec is not None), None)
    if spec is None:
        return None
    paths = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    own = os.path.realpath(os.path.join(ROOT, name))
    wrong = [path for path in paths if os.path.realpath(path) not in (own, os.path.join(own, "__init__.py"))]
    return wrong[0] if wrong else None


def shadowing_modules(folder: str, others: list[str]) -> dict[str, tuple[str, str]]:
    """Maps modules of a folder that hide a module of Python or an installed package to (path, kind of the latter)."""
    found: dict[str, tuple[str, str]] = {}
    try:
        entries = sorted(os.listdir(folder))
    except OSError:  # the folder can be entered but not listed: Python itself reports errors
        return found
    for entry in entries:
        path, name = os.path.join(folder, entry), entry.partition(".")[0]
        is_module = entry.endswith((*importlib.machinery.SOURCE_SUFFIXES, *importlib.machinery.EXTENSION_SUFFIXES))
        is_package = os.path.isfile(os.path.join(path, "__init__.py"))
        if not name.isidentifier() or not (is_module or is_package):
            continue
        if os.path.realpath(folder) == os.path.realpath(ROOT) and name in TOP_PACKAGES:
            continue
        if name in sys.stdlib_module_names:
            found[name] = path, "a module of Python's own library"
        elif importlib.machinery.PathFinder.find_spec(name, others) is not None:
            found[name] = path, "an installed package"
    return found


class _ImportGuard:
    """The first import finder: ends the process when a library or Cairn would import a file that hides a module.

    An optional package that is not installed is not found in the current folder either: a folder `datasets` there is
    the user's data.
    """

    def __init__(self, shadowing: dict[str, tuple[str, str]], folder: str) -> None:
        self._shadowing, self._folder = shadowing, os.path.realpath(folder)
        self._libraries = {os.path.realpath(path) for path in sys.path[1:] if _is_library(path)}
        self._package_folders = {os.path.realpath(os.path.join(ROOT, name)) for name in ("model", "train", "launch")}

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if path is not None:
            return
        if name in self._shadowing:
            if self._importer() != self._folder:
                path, shadowed = self._shadowing[name]
                _exit(name, path, shadowed)
        elif self._is_here(name) and self._importer() in self._libraries | self._package_folders:
            elsewhere = importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if not self._is_folder(p)])
            if elsewhere is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def _is_here(self, name: str) -> bool:
        if name in TOP_PACKAGES and self._is_folder(ROOT):
            return False
        path = os.path.join(self._folder, name)
        return os.path.isdir(path) or any(os.path.isfile(path + s) for s in importlib.machinery.all_suffixes())

    def _is_folder(self, path: str) -> bool:
        return os.path.realpath(path) == self._folder

    def _importer(self) -> str:
        """The entry of sys.path, or the package of Cairn, that holds the file with the import statement."""
        frame = sys._getframe(2)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        importer = os.path.realpath(frame.f_code.co_filename)
        known = {*(os.path.realpath(path) for path in sys.path), *self._package_folders}
        return max((path for path in known if importer.startswith(os.path.join(path, ""))), key=len, default="")


def _is_library(path: str) -> bool:
    """Whether an entry of sys.path is Python's own library or a folder of installed packages."""
    return os.path.basename(path) in ("site-packages", "dist-packages") or path == os.path.dirname(os.__file__)


def _exit(name: str, path: str, shadowed: str) -> NoReturn:
    print(
        f"error: {path} hides {shadowed}: `import {name}` finds it first, because Python looks into the folder that a "
        "command is started in before all others. Rename it, or start the command in another folder",
        file=sys.stderr,
    )
    raise SystemExit(2)
