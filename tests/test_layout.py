"""The house keeps its shape: imports run one way, files stay short, every config loads and says how to run it."""

import ast
import pathlib
import subprocess
import sys

import pytest

from train.config_file import from_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
STOREYS = ("model", "train", "configs", "launch")  # each may import itself and those before it
LISTED = subprocess.run(["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=False)
OWN = {ROOT / line for line in LISTED.stdout.splitlines()}


def own_modules(folder):
    """The modules in a folder; in a git checkout without those that its user has added and not committed."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if path in OWN or LISTED.returncode]


MODULES = [path for name in STOREYS for path in own_modules(name)]
CONFIGS = [path for path in own_modules("configs") if path.name != "__init__.py"]
DESIGNED = {"model", "train", "configs", "launch", "tests"}


def relative(path):
    return str(path.relative_to(ROOT))


def imported(tree):
    """The first word of everything that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_run_one_way(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    storey = path.relative_to(ROOT).parts[0]
    above = set(STOREYS[STOREYS.index(storey) + 1 :]) | {"tests"}
    assert not above & set(imported(tree)), f"{relative(path)} imports from above"
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_file_is_one_mechanism_and_says_which(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert ast.get_docstring(ast.parse(text)), "no docstring says what it is for"


def test_the_model_reads_as_one_page():
    assert len((ROOT / "model" / "transformer.py").read_text().splitlines()) < 200


def test_no_rooms_beyond_the_design():
    if LISTED.returncode:
        pytest.skip("not a git checkout")
    folders = {line.split("/")[0] for line in LISTED.stdout.splitlines() if "/" in line}
    assert {folder for folder in folders if not folder.startswith(".")} == DESIGNED


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_every_config_loads_and_says_how_to_run_it(path):
    from_file(str(path))
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    named = f"--config={relative(path)}"
    assert named in said or ("quickstart" in path.name and "make quickstart" in said), f"its docstring lacks {named}"


def test_there_are_configs():
    assert {"quickstart.py", "shakespeare_char.py"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize(
    ("accelerator", "extras"), [("cpu", "[test]"), ("cuda12", "[test,cuda12]"), ("tpu", "[test,tpu]")]
)
def test_the_accelerator_is_an_extra_of_the_installation(accelerator, extras, tmp_path):
    shown = subprocess.run(
        ["make", "-n", f"ACCELERATOR={accelerator}", f"VENV={tmp_path / 'venv'}", "install"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'--editable ".{extras}"' in shown.stdout


def test_make_check_leaves_a_users_own_configs_alone(tmp_path):
    (tmp_path / "configs").mkdir()
    for name in ("ours.py", "deleted.py"):
        (tmp_path / "configs" / name).touch()
    for arguments in (["init", "--quiet"], ["add", "configs"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "configs" / "deleted.py").unlink()
    for name in ("configs/mine.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    make = ["make", "-n", "-f", str(ROOT / "Makefile"), f"VENV={tmp_path / 'venv'}", "check"]
    shown = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    checks = [line.split(" -m ")[1] for line in shown if " -m ruff " in line or " -m mypy" in line]
    assert checks == [
        "ruff check model train launch tests configs/ours.py",
        "ruff format --check model train launch tests configs/ours.py",
        "mypy model train launch configs/ours.py",
    ]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("tests.benchmarks.torch_loss", "--first_seed"),
        ("tests.benchmarks.torch_reference", "--serve"),
        ("tests.parity.live", "--no_greedy"),
        ("tests.parity.record", "expected.npz"),
    ],
)
def test_help_needs_no_torch(module, said):
    program = "import runpy, sys; sys.modules['torch'] = sys.modules['transformers'] = None; sys.argv[1:] = ['--help'];"
    program += f"runpy.run_module({module!r}, run_name='__main__')"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert said in shown.stdout
