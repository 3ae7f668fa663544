"""A file in the current folder that hides a package: the error names both, without a traceback."""

import os
import pathlib
import subprocess
import sys

import pytest

from launch.command import import_shadowing

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, first on the path as `python -m` has it, with Cairn on the path after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT), *(p for p in sys.path if p not in ("", str(ROOT)))])
    return tmp_path


@pytest.fixture
def not_imported(monkeypatch):
    """As in a process that has not imported any of Cairn's modules yet."""
    for name in ("model", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def make(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("x = 1\n")
    return str(path)


def test_cairns_own_packages(here, not_imported):
    assert import_shadowing.shadowed_by("model") is None
    (here / "model").mkdir()  # Python does not import a folder of data when there is a package of that name elsewhere
    assert import_shadowing.shadowed_by("model") is None
    assert import_shadowing.shadowed_by("train") is None
    assert import_shadowing.shadowed_by("model") is None
    path = make(here / "train.py")
    assert import_shadowing.shadowed_by("train") == path


def test_a_package_in_the_place_of_one(here, not_imported):
    path = make(here / "model" / "__init__.py")
    assert import_shadowing.shadowed_by("model") == path


def test_modules_of_pythons_and_of_others(here):
    for name in ("random.py", "jax.py", "mine.py", "not a name.py", "secrets.txt"):
        make(here / name)
    make(here / "numpy" / "__init__.py")
    (here / "flax").mkdir()
    assert import_shadowing.shadowing_modules(str(here), sys.path[1:]) == {
        "random": (str(here / "random.py"), "a module of Python's own library"),
        "jax": (str(here / "jax.py"), "an installed package"),
        "numpy": (str(here / "numpy"), "an installed package"),
    }
    assert import_shadowing.shadowing_modules(str(here / "nowhere"), []) == {}


def test_a_module_that_a_file_of_the_users_own_asks_for_is_meant(here, monkeypatch):
    """A config may import a module beside it, whatever the module's name."""
    make(here / "random.py")
    monkeypatch.setattr(
        sys, "meta_path", [import_shadowing._ImportGuard({"random": ("random.py", "it")}, str(here)), *sys.meta_path]
    )
    monkeypatch.delitem(sys.modules, "random")
    exec(compile("import random; assert random.x == 1", str(here / "config.py"), "exec"), {})
    monkeypatch.delitem(sys.modules, "random")
    with pytest.raises(SystemExit):
        exec(compile("import random", str(ROOT / "launch" / "command" / "cli.py"), "exec"), {})


def imported_by(importer, name):
    """The result of importing a name in a file: the module, or None where it is not found."""
    found = {}
    source = f"try:\n    import {name}\nexcept ModuleNotFoundError:\n    {name} = None"
    exec(compile(source, str(importer), "exec"), found)
    return found[name]


@pytest.mark.parametrize("file", ["not_installed.py", "not_installed/__init__.py", "not_installed/data.csv"])
def test_an_optional_package_that_is_not_installed_is_not_found_in_the_folder(file, here, monkeypatch):
    """A folder with the name of a package, such as datasets/ or wandb/, holds the user's files."""
    make(here / file)
    monkeypatch.setattr(sys, "meta_path", [import_shadowing._ImportGuard({}, str(here)), *sys.meta_path])
    library = pathlib.Path(pytest.__file__)
    for importer in (library, ROOT / "train" / "run" / "trackers.py"):
        assert imported_by(importer, "not_installed") is None
        assert imported_by(importer, "pytest") is pytest
    assert imported_by(here / "config.py", "not_installed") is sys.modules.pop("not_installed")


def test_cairns_own_packages_are_found_in_a_checkout(monkeypatch):
    refusing = import_shadowing._ImportGuard({}, str(ROOT))
    assert not any(refusing._is_here(name) for name in import_shadowing.TOP_PACKAGES)


def test_ctrl_c_while_modules_are_imported_leaves_no_traceback():
    program = (
        "import sys, signal; sys.argv = ['-m']; sys.path[0] = {!r}; import launch; print(repr(signal.getsignal(2)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program.format(str(ROOT))], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "<Handlers.SIG_DFL: 0>\n"


def command(folder, *options, path=None):
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    program = [sys.executable, *options, "-m", "launch.report"]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model.py", f"model.py hides Cairn's own package {ROOT / 'model'}: `import model` finds it first"),
        ("train/__init__.py", f"train/__init__.py hides Cairn's own package {ROOT / 'train'}"),
        ("random.py", "random.py hides a module of Python's own library: `import random`"),
        ("typing.py", "typing.py hides a module of Python's own library: `import typing`"),
        ("absl.py", "absl.py hides an installed package: `import absl`"),
    ],
)
def test_a_command_says_so_and_ends(file, words, tmp_path):
    make(tmp_path / file)
    done = command(tmp_path, path=ROOT)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith(f"error: {tmp_path}")
    assert done.stderr.count("\n") == 1
    safe = command(tmp_path, "-P", path=ROOT)
    assert safe.stderr == "error: --run is missing: the report of which run? Try --run=runs/quickstart\n"
