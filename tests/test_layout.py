"""The layout of the code: imports run one way, files stay short, every config loads and says how to run it."""

import ast
import functools
import json
import pathlib
import subprocess
import sys

import pytest

from tests.tiers import COLLECTED, SWEEP, counted, first_of_each, only_swept, representatives
from train.config_file import from_file
from train.inspection.features.training.settings import from_file as features_from_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOP_PACKAGES = ("model", "train", "configs", "launch")  # each may import itself and those before it
GIT_FILES = subprocess.run(["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=False)
TRACKED_FILES = {ROOT / line for line in GIT_FILES.stdout.splitlines()}


def tracked_modules(folder):
    """The modules in a folder; in a git checkout without those that its user has added and not committed."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if path in TRACKED_FILES or GIT_FILES.returncode]


MODULES = [path for name in TOP_PACKAGES for path in tracked_modules(name)]
TESTS = tracked_modules("tests")
# Modules without a test file of their own, and why.
UNTESTED = {
    "model/errors.py": "an exception without behaviour; tests/launch/all_commands/test_bad_input.py sees what a command makes of it",
    "model/mixers.py": "a union; tests/model/test_interfaces.py asks each of its classes",
    "model/output.py": "two dataclasses without behaviour, the results of model/transformer.py",
}
MAX_LINES = 400  # lines of a file
MAX_FILES, MAX_TEST_FILES = 17, 20  # in a folder; tests of a folder include those about all of it, and their helpers
MAX_COMMANDS = 20  # in launch/, where every file is a command
# Imports between folders form no cycle. The files of these folders count by themselves, and so does every __init__.py.
FLAT_FOLDERS = ("launch", "model", "train", "train.data")
# Modules that also count by themselves, because they import more or less than the rest of their folder, and why.
STANDALONE = {
    "model.attention.patterns": "options that import nothing; kernels read them too",
    "model.encoder.module": "runs stacks of layers; the option beside it is a part of ModelConfig",
    "model.families.sizes": "sizes of all families by name, read by the families",
    "model.feedforward.loads": "reads the layers of a whole model, of which feed-forwards are parts",
    "model.stages.micro_batches": "reorders rows; contexts read it, which the stages are given",
    "model.taps.collect": "runs groups of layers, which are made of mixers, which offer taps",
    "model.vocabulary.multi_token_modules": "made of blocks; the option in multi_token.py is a part of ModelConfig",
    "train.data.conversations.option": "an option of Experiment; the rest of its folder reads runs",
    "train.data.pairs.option": "an option of Experiment; the rest of its folder reads rows",
    "train.data.preferences.option": "an option of Experiment; the rest of its folder reads rows of conversations",
    "train.data.span_corruption.corruption": "arithmetic that imports nothing; its option reads it too",
    "train.data.span_corruption.option": "an option of Experiment; the rest of its folder reads datasets",
    "train.evaluation.named_evaluations": "an option of Experiment, and the datasets that it names",
    "train.optimizers.rounding": "reads an Experiment, of which optimizers are parts",
}
# The folders of train/data: each may import itself and those before it.
DATA_FOLDERS = (
    *("text", "tokenizers", "shards", "batches", "prepare", "conversations", "preferences", "pairs"),
    "span_corruption",
)
CONFIGS = [path for path in tracked_modules("configs") if path.name != "__init__.py"]
TOP_FOLDERS = {"model", "train", "configs", "launch", "tests"}


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
    tree = tree_of(path)
    package = path.relative_to(ROOT).parts[0]
    above = set(TOP_PACKAGES[TOP_PACKAGES.index(package) + 1 :]) | {"tests"}
    assert not above & set(imported(tree)), f"{relative(path)} imports from above"
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]


@functools.cache
def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def exported_from(package):
    """{name: module} of the names that a package exports as model/exports.py does: on first use, from its modules."""
    path = ROOT.joinpath(*package.split("."), "__init__.py")
    if not path.exists():
        return {}
    calls = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "exports"]
    return {
        name: f"{package}.{module.arg}"
        for call in calls
        for module in call.keywords
        for name in ast.literal_eval(module.value).split()
    }


@functools.cache
def imports_of(path):
    """The modules and packages that a module imports when it is imported itself, those for type checkers left out."""
    known = {module_name(other) for other in MODULES}

    def at_top(statements):
        for node in statements:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    inside = f"{node.module}.{alias.name}"
                    is_module = inside in known or f"{inside}.__init__" in known
                    yield inside if is_module else exported_from(node.module).get(alias.name, node.module)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from at_top([*node.body, *node.orelse])
            elif isinstance(node, ast.Try | ast.With):
                yield from at_top(node.body)

    own = [name for name in at_top(tree_of(path).body) if name.split(".")[0] in TOP_PACKAGES]
    return {f"{name}.__init__" if f"{name}.__init__" in known else name for name in own}


def unit_of(name):
    folder = name.rpartition(".")[0]
    alone = name in STANDALONE or folder in FLAT_FOLDERS or name.endswith(".__init__")
    return name if alone else folder


def cycle_in(graph):
    """The nodes of a graph that no order of imports can serve; none if there is no cycle."""
    left = {node: set(targets) for node, targets in graph.items()}
    while free := [node for node, targets in left.items() if not targets & left.keys()]:
        for node in free:
            del left[node]
    return left


def graph_of(paths, label):
    graph = {}
    for path in paths:
        own = label(module_name(path))
        graph.setdefault(own, set()).update(set(map(label, imports_of(path))) - {own})
    return graph


def test_no_cycle_of_imports_between_folders_nor_between_files():
    """Hence every module can be the first one that is imported."""
    assert cycle_in(graph_of(MODULES, unit_of)) == {}
    assert cycle_in(graph_of(MODULES, str)) == {}
    for name in STANDALONE:  # without one of them there is a cycle, or it need not be named
        assert cycle_in(
            graph_of(MODULES, lambda other, name=name: name.rpartition(".")[0] if other == name else unit_of(other))
        )


def test_cycles_are_found():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": set()}) == {}
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}).keys() == {"a", "b", "c"}
    assert "model.context" in imports_of(ROOT / "model" / "block.py")
    assert not any(name.startswith("model.attention") for name in imports_of(ROOT / "model" / "context.py"))


@pytest.mark.parametrize("folder", DATA_FOLDERS)
def test_folders_of_data_import_those_before_them(folder):
    above = DATA_FOLDERS[DATA_FOLDERS.index(folder) + 1 :]
    for path in tracked_modules(f"train/data/{folder}"):
        for name in imports_of(path):
            assert not name.startswith(tuple(f"train.data.{other}." for other in above)), f"{relative(path)}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_file_is_one_mechanism_and_says_which(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "no docstring says what it is for"


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_a_file_of_tests_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_each_file_with_a_sweep_has_a_test_outside_it(request):
    if any("::" in argument for argument in request.config.args):
        pytest.skip("single tests were asked for, not their files")
    assert only_swept(request.config.stash[COLLECTED]) == []


def test_a_file_that_is_all_sweep_is_found(request):
    def test_of(name, swept):
        item = pytest.Function.from_parent(request.node.parent, name="test", callobj=lambda: None)
        item.path = pathlib.Path(name)
        if swept:
            item.add_marker(SWEEP)
        return item

    items = [test_of(name, swept) for name, swept in (("all.py", True), ("some.py", True), ("some.py", False))]
    counts = counted([*items, test_of("none.py", False)])
    assert {path.name: count for path, count in counts.items()} == {
        "all.py": (1, 1),
        "some.py": (1, 2),
        "none.py": (0, 1),
    }
    assert [path.name for path in only_swept(counts)] == ["all.py"]


def test_a_representative_of_each_kind_stays():
    cases = [("a", 1), ("a", 2), ("b", 3)]
    for marked in (first_of_each(lambda case: case[0], cases), representatives(cases, ("a", 1), ("b", 3))):
        params = list(marked)
        assert [param.values for param in params] == cases
        assert [[mark.name for mark in param.marks] for param in params] == [[], ["sweep"], []]


def test_every_module_has_its_test_file():
    """In the same folder of tests/; the families are compared with recorded models in tests/model/families."""
    modules = [path for path in MODULES if path.name != "__init__.py" and path.parent.name != "architectures"]
    modules = {relative(path): path for path in modules if path.relative_to(ROOT).parts[0] != "configs"}
    tested = {name for name, path in modules.items() if (ROOT / "tests" / name).with_name(f"test_{path.name}") in TESTS}
    assert {name for name in modules if name not in tested} == set(UNTESTED)


def test_no_folder_holds_too_many_files():
    """Apart from the published families, one file each."""
    counts = {}
    for path in MODULES + TESTS:
        if path.name != "__init__.py" and path.parent.name != "architectures":
            counts[relative(path.parent)] = counts.get(relative(path.parent), 0) + 1
    most = {folder: MAX_TEST_FILES if folder.startswith("tests") else MAX_FILES for folder in counts}
    most["launch"], most["tests/launch"] = MAX_COMMANDS, MAX_COMMANDS + 1  # a test of each, and what they share
    assert {folder: count for folder, count in counts.items() if count > most[folder]} == {}


def test_the_model_reads_as_one_page():
    assert len((ROOT / "model" / "transformer.py").read_text().splitlines()) < 200


def test_no_top_folders_beyond_the_design():
    if GIT_FILES.returncode:
        pytest.skip("not a git checkout")
    folders = {line.split("/")[0] for line in GIT_FILES.stdout.splitlines() if "/" in line}
    assert {folder for folder in folders if not folder.startswith(".")} == TOP_FOLDERS


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_every_config_loads_and_says_how_to_run_it(path):
    (features_from_file if path.parent.name == "inspection" else from_file)(str(path))
    said = ast.get_docstring(tree_of(path)) or ""
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


@pytest.mark.parametrize(("target", "chosen"), [("test", ' -m "not sweep"'), ("test-all", " ")])
def test_make_runs_a_tier(target, chosen, tmp_path):
    make = ["make", "-n", f"VENV={tmp_path / 'venv'}", target]
    shown = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f" -m pytest --numprocesses=2 --dist=worksteal{chosen}\n" in shown.stdout


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


HELP = {
    "tests.benchmarks.references.torch_llama": "--no_compile",
    "tests.benchmarks.references.torch_loss": "--first_seed",
    "tests.benchmarks.references.torch_reference": "--serve",
    "tests.parity.live": "--no_greedy",
    "tests.parity.record": "expected.npz",
}
HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
sys.modules["torch"] = sys.modules["transformers"] = None
modules, sys.argv[1:] = sys.argv[1:], ["--help"]
pages = []
for module in modules:
    with contextlib.redirect_stdout(io.StringIO()) as page:
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, module
    pages.append(page.getvalue())
print(json.dumps(pages))
"""


def test_help_needs_no_torch():
    program = [sys.executable, "-c", HELP_OF_ALL, *HELP]
    shown = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    for page, said in zip(json.loads(shown.stdout.splitlines()[-1]), HELP.values(), strict=True):
        assert said in page
