import ast
import importlib
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from model.errors import UserError
from train.data.text.cairn_files import RUN_FILES, RUN_FOLDERS
from train.experiment import load
from train.loop import train
from train.run import folder as run_folder

ROOT = pathlib.Path(__file__).resolve().parents[3]
# How the code calls a run folder: in any module, and in modules where `folder` is one.
RUN_FOLDER = {
    *("run", "self.run", "self._run", "run.folder", "run_folder", "run_folder.absolute()", "session.folder"),
    *("literal_path(run_folder)", "pathlib.Path(run_folder)"),
}
IN_MODULES = {
    "train/evaluation/comparison.py": "folder",
    "train/loop.py": "self.folder",
    "train/run/metrics.py": "self.folder",
}


def names_in_code():
    """The names of files and folders that the code looks for in a run folder: `run / "name"`, `run / NAME`."""
    found = set()
    for path in [*ROOT.glob("train/**/*.py"), *ROOT.glob("launch/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div):
                continue
            if ast.unparse(node.left) not in RUN_FOLDER | {IN_MODULES.get(name)}:
                continue
            if isinstance(node.right, ast.Constant):
                found.add(node.right.value)
            elif isinstance(node.right, ast.Name) and node.right.id.isupper():
                found.add(getattr(importlib.import_module(name[:-3].replace("/", ".")), node.right.id))
    return {name for name in found if not name.startswith(".")}


def test_every_file_of_a_run_is_listed_and_documented():
    """The list for the readers of text, the docstring, the README and the code have the same names."""
    listed = {*RUN_FILES, *RUN_FOLDERS}
    of_lines = {name.removesuffix(".old") for name in listed if name.endswith(".old")}
    assert of_lines == {"metrics.jsonl", "statistics.jsonl", "throughput.jsonl", "samples.txt"}
    listed = {name for name in listed if not name.endswith(".old")}
    used = names_in_code()
    assert {"config.json", "checkpoints", "evaluations", "origin", "damaged", "files.txt", "status.json"} <= used
    assert used <= listed
    # By the package wandb, by moving, by line, by launch.evaluate --resume, a constant that no other module spells, and
    # by launch.inspect.
    written_otherwise = {"wandb", "environment.json.damaged", "perplexity", "inspection", *of_lines}
    assert listed - used <= written_otherwise
    rows = re.findall(r"^(\S+?)/?  +\S", run_folder.__doc__, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == listed | {"NAME.old"}
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## A run is a folder")[1].split("\n\n")[1]
    in_table = [name for row in table.splitlines()[2:] for name in re.findall(r"`(.+?)/?`", row.split("|")[1])]
    assert len(in_table) == len(set(in_table))
    assert set(in_table) == listed | {"NAME.old"}


def test_one_process_holds_it(tmp_path):
    with run_folder.locked(tmp_path / "run"):
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()}; wait for it or stop it \(kill "):
            run_folder.locked(tmp_path / "run").__enter__()
    with run_folder.locked(tmp_path / "run"):  # and lets it go
        pass


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    code = f"from train.run import folder as run_folder; import pathlib, os, signal\nwith run_folder.locked(pathlib.Path({str(tmp_path)!r})):"
    killed = subprocess.run([sys.executable, "-c", code + " os.kill(os.getpid(), signal.SIGKILL)"], cwd=os.getcwd())
    assert killed.returncode == -9
    assert (tmp_path / ".lock").read_text() != ""
    with run_folder.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{socket.gethostname()} {os.getpid()}"


def test_a_process_of_another_host_is_not_to_be_killed_here(tmp_path):
    """Locks of a shared file system hold on all of its hosts, and the number would be that of a process here."""
    with run_folder.locked(tmp_path):
        (tmp_path / ".lock").write_text("node3 7")
        words = "in use by process 7 on node3; wait for it or stop it there, or give another --run"
        with pytest.raises(UserError, match=words):
            run_folder.locked(tmp_path).__enter__()


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("text")
    for run in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot be a run folder: .*; give another --run"):
            run_folder.locked(run).__enter__()
    assert (tmp_path / "file").read_text() == "text"


def test_claiming_writes_the_config_that_loads_back(tiny_experiment, tmp_path):
    experiment = tiny_experiment(model__position="Learned()", optimizer="Muon(rms=0.3)")
    run_folder.claim(tmp_path, experiment)
    assert load(tmp_path) == experiment
    run_folder.claim(tmp_path, experiment)  # the same again continues
    assert load(tmp_path) == experiment


def begin(run):
    """Something that a first step leaves behind."""
    (run / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')


def test_a_run_that_took_no_step_can_be_mended(tiny_experiment, tmp_path):
    """A misspelt path of the text, say, was found out after the folder was made."""
    run_folder.claim(tmp_path, tiny_experiment(data__path="txet.txt"))
    (tmp_path / "checkpoints").mkdir()
    run_folder.claim(tmp_path, tiny_experiment(data__path="text.txt"))
    assert load(tmp_path).data.path == "text.txt"


def test_every_difference_is_listed_and_nothing_is_written(tiny_experiment, tmp_path):
    run_folder.claim(tmp_path, tiny_experiment())
    begin(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    other = tiny_experiment(
        model__num_layers=3,
        model__norm="LayerNorm(bias=False)",
        optimizer="Lion()",
        schedule__peak=0.5,
        data__seed=1,
        training__guard__max_consecutive=4,
    )
    with pytest.raises(UserError) as caught:
        run_folder.claim(tmp_path, other)
    text = str(caught.value)
    assert "model.num_layers: 2 -> 3" in text
    assert "model.norm: RMSNorm(" in text
    assert "-> LayerNorm(" in text
    assert "optimizer: AdamW(" in text
    assert "schedule.peak: 0.01 -> 0.5" in text
    assert "data.seed: 0 -> 1" in text
    assert "training.guard.max_consecutive: 20 -> 4" in text
    assert len([line for line in text.splitlines() if "->" in line]) == 7  # six fields, and the heading
    assert text.endswith("Give another --run, or the config that made it.")
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": "Mesh(fsdp=8)"},
        {"sharding__parameters__embed": ()},
        {"checkpoints__every": 5},
        {"checkpoints__keep_every": 5},
        {"logging__tensorboard": True},
        {"statistics": "Statistics(every=3)"},
        {"samples__prompts": ("a", "b")},
        {"evaluations": "(NamedEvaluation(name='code', path='code.py'),)"},
        {"model__scan_layers": False},
        {"model__remat": "full"},
    ],
    ids=str,
)
def test_what_changes_no_number_may_change(change, tiny_experiment, tmp_path):
    run_folder.claim(tmp_path, tiny_experiment())
    begin(tmp_path)
    run_folder.claim(tmp_path, tiny_experiment(**change))
    assert load(tmp_path) == tiny_experiment(**change)


def test_how_often_it_is_logged_or_saved_by_loss_may_not(tiny_experiment, tmp_path):
    """evaluation.every decides the lines of metrics.jsonl, which a resumed run must end with unchanged."""
    run_folder.claim(tmp_path, tiny_experiment())
    begin(tmp_path)
    with pytest.raises(UserError, match="evaluation.every: 10 -> 5"):
        run_folder.claim(tmp_path, tiny_experiment(evaluation__every=5))


@pytest.mark.parametrize("change", ["path='b.txt'", "path='a.txt', field='body'", "path='a.txt', max_batches=1"])
def test_a_name_keeps_its_text(change, tiny_experiment, tmp_path):
    """The same name stands for one curve, and for one folder of tokens; its period may change."""
    run_folder.claim(tmp_path, tiny_experiment(evaluations="(NamedEvaluation(name='one', path='a.txt'),)"))
    begin(tmp_path)
    run_folder.claim(tmp_path, tiny_experiment(evaluations="(NamedEvaluation(name='one', path='a.txt', every=7),)"))
    with pytest.raises(UserError, match=r"evaluations \(one\): .* -> .*; a new name makes it a new one"):
        run_folder.claim(tmp_path, tiny_experiment(evaluations=f"(NamedEvaluation(name='one', {change}),)"))
    run_folder.claim(tmp_path, tiny_experiment(evaluations=f"(NamedEvaluation(name='other', {change}),)"))


def test_checkpoints_without_a_config_are_not_taken_over(tiny_experiment, tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds checkpoints but no config\.json"):
        run_folder.claim(tmp_path, tiny_experiment())
    assert not (tmp_path / "config.json").exists()


def test_a_damaged_config_is_named(tiny_experiment, tmp_path):
    (tmp_path / "config.json").write_text("{")
    begin(tmp_path)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        run_folder.claim(tmp_path, tiny_experiment())


def test_a_folder_of_something_else_is_left_as_it_is(tiny_experiment, tmp_path):
    """Of published weights, or with a config.json that no run wrote."""
    for content, message in (
        ('{"model_type": "qwen3"}', r"published weights, not a run folder; .*launch.convert --from="),
        ('{"name": "something"}', r"config.json is not the config of a run; give another folder"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=message):
            train(tiny_experiment(), tmp_path)
        with pytest.raises(UserError, match=message):
            load(tmp_path)
        with pytest.raises(UserError, match=message):
            train(tiny_experiment(training__init_from=str(tmp_path)), tmp_path.with_name("other"))
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", content)]
    assert [path.name for path in tmp_path.with_name("other").iterdir()] == [".lock"]
