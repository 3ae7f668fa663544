import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from train import experiment as experiments
from train.data import Batches, Bytes, Data, open_dataset, prepare

MODULE = "launch.data"
ROOT = pathlib.Path(__file__).resolve().parents[2]


def process(*arguments):
    """Runs launch.data as a shell does; returns its status, output and errors."""
    program = [sys.executable, "-m", MODULE, *map(str, arguments)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tiny_experiment, tmp_path_factory):
    """A run folder with the data files that launch.train writes."""
    folder = tmp_path_factory.mktemp("run")
    text = tmp_path_factory.mktemp("text")
    for k in range(20):
        (text / f"{k}.txt").write_text(f"file {k} " * 40)
    data = Data(path=str(text), tokenizer=Bytes(), batch_size=4, sequence_length=64)
    prepare(data, folder / "data")
    experiments.save(tiny_experiment(data=data, model__context_length=64), folder)
    (folder / "data.json").write_text(json.dumps({"dataset": str(folder / "data")}))
    return folder, data


def test_show_prints_the_documents_of_a_step(run, call):
    folder, data = run
    status, out, err = process("show", f"--run={folder}", "--step=12", "--characters=7")
    assert status == 0, err
    head, *lines = out.splitlines()
    assert head.startswith("step 12: batch 11, ")
    batch = Batches(open_dataset(folder / "data"), data).rows(11)
    found = [
        re.match(r"row +(\d+) +(\d+):(\d+) +(\d+)\.txt +tokens (\d+):(\d+) of \d+ +'(.*)'$", line) for line in lines
    ]
    assert all(found)
    for row, column, _, name, start, stop, shown in (match.groups() for match in found):
        expected = (f"file {name} " * 40)[int(start) : int(stop)]
        column, size = int(column), int(stop) - int(start)
        assert bytes(batch["targets"][int(row), column : column + size].tolist()).decode() == expected
        assert expected[:7] == shown
    ((status, out, err),) = call(MODULE, [("show", f"--run={folder}", "--step=12", "--rows=3")])
    assert {line.split()[1] for line in out.splitlines()[1:]} == {"3"}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[]", "config.json is damaged: expected a JSON object, got list"),
        ("config.json", "{}", "config.json is not the config of a run; give another folder"),
        ("data.json", "{}", "data.json is damaged: expected the path of a folder as 'dataset', got None"),
        ("data.json", '{"dataset": 3}', "data.json is damaged: expected the path of a folder as 'dataset', got 3"),
    ],
)
def test_a_damaged_run_folder_is_named(file, content, message, run, tmp_path, call):
    folder = shutil.copytree(run[0], tmp_path / "run")
    (folder / file).write_text(content)
    (answer,) = call(MODULE, [("show", f"--run={folder}", "--step=1")])
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.err


def test_info_counts_and_verifies(run, call):
    folder, _ = run
    ((status, out, err),) = call(MODULE, [("info", f"--path={folder / 'data'}", "--verify")])
    assert status == 0, err
    assert out.splitlines()[1] == "tokenizer: Bytes, 257 ids, end of document: 256"
    assert out.splitlines()[-1] == "verified: 2 shards match their checksums"


def test_instructions_are_written(tmp_path, call):
    counts = "--counts=Counts(texts=1, conversations=2, preferences=1, prompts=1, tests=1)"
    path = f"--path={tmp_path / 'new'}"
    (answer,) = call(MODULE, [("instructions", path, counts, "--grammar=Instructions(tasks=('sort',))")])
    assert answer.status == 0, answer.err
    assert len(answer.out.splitlines()) == 8
    rows = (tmp_path / "new" / "conversations.train.jsonl").read_text().splitlines()
    assert [json.loads(row)["messages"][0]["content"].split()[0] for row in rows] == ["sort", "sort"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of show, info, instructions, got nothing"),
        (["shw"], "got shw"),
        (["show", "--run=RUN"], "--run and --step are needed"),
        (["show", "--run=RUN", "--step=0"], "steps count from 1"),
        (
            ["show", "--run=RUN", "--step=21"],
            "--step=21: this run ends at step 20 (training.num_steps); give a step up",
        ),
        (["show", "--run=RUN", f"--step={10**20}"], f"--step={10**20}: this run ends at step 20"),
        (["show", "--run=RUN", "--step=1", "--rows=4"], "expected numbers from 0 to 3"),
        (["show", "--run=RUN/data", "--step=1"], "it has no config.json"),
        (["info"], "--path is missing"),
        (["instructions"], "--path is missing"),
        (["instructions", "--path=RUN", "--step=3"], "--step has no effect with instructions"),
        (["show", "--run=RUN", "--step=1", "--counts=Counts()"], "--counts has no effect with show"),
        (["instructions", "--path=RUN/x", "--grammar=Instructions(length=20)"], "length: must be from 3 to 8, got 20"),
        (["info", "--path=RUN"], "is not a finished dataset"),
    ],
)
def test_mistakes_are_named_without_a_traceback(arguments, message, run, call):
    ((status, out, err),) = call(MODULE, [[a.replace("RUN", str(run[0])) for a in arguments]])
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
