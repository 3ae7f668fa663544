import dataclasses
import json
import os
import shutil

import pytest

from model.errors import UserError
from train.data import Bytes, Data, Tail, open_dataset, prepare
from train.data.config import Source
from train.data.text import cairn_files
from train.data.text.sources import list_units, read_unit
from train.report import write_curve_png


def read(path):
    """The names of the documents, and the lines about files that were left out."""
    said = []
    units = list_units(Source(path=str(path)), say=said.append)
    return [d.name for unit in units for d in read_unit(unit)], said


@pytest.fixture
def text(tmp_path):
    """A folder of text with one file and a file that only looks like one of Cairn's."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some words to learn\n" * 20)
    (tmp_path / "text" / "samples.txt").write_text("words of somebody else\n" * 20)
    return tmp_path / "text"


MINE = ["a.txt", "samples.txt"]


def test_runs_are_left_out_wherever_they_lie_and_whatever_their_name(text, tiny_run):
    for place in ("runs/a", "my books"):
        shutil.copytree(tiny_run, text / place)
    names, said = read(text)
    assert names == MINE
    assert len(said) == 1
    files = sum(len(found) for _, _, found in os.walk(tiny_run))
    assert f"left out files that Cairn wrote: my books (a run folder, {files} files, " in said[0]
    assert f"), runs/a (a run folder, {files} files, " in said[0]
    assert read(f"{text}/**/*.txt")[0] == MINE
    matching = len(list(tiny_run.rglob("*.txt")))
    assert f"my books (a run folder, {matching} files, " in read(f"{text}/**/*.txt")[1][0]
    assert read(f"{text}/*.txt")[1] == []


def test_a_run_without_its_config_is_still_one(text, tiny_run):
    shutil.copytree(tiny_run, text / "a")
    (text / "a" / "config.json").unlink()
    assert read(text)[0] == MINE
    (text / "a" / "config.json").write_text("{")
    assert read(text)[0] == MINE


def test_a_sweep_is_left_out(text, tiny_run):
    shutil.copytree(tiny_run, text / "heads" / "base-seed0")
    (text / "heads" / "results.md").write_text("| loss |")
    (text / "heads" / "sweep.json").write_text('{"format": 1, "variants": {}, "seeds": [0]}')
    names, said = read(text)
    assert names == MINE
    assert "heads (the folder of a sweep, " in said[0]


def test_datasets_finished_and_half_prepared_are_left_out(text, data, dataset):
    shutil.copytree(dataset.folder, text / "books")
    half = text / "half"
    half.mkdir()
    shutil.copyfile(dataset.folder / "settings.json", half / "settings.json")
    (half / "part-00000-of-00001.json").write_text("{}")
    names, said = read(text)
    assert names == MINE
    assert "books (a dataset folder, " in said[0]
    assert "half (a dataset folder, 2 files, " in said[0]
    with pytest.raises(UserError, match=r"half is a dataset folder, .* with the command that began it"):
        read(half)


def test_weights_caches_reports_and_pictures_are_left_out(text, tiny_run):
    weights, cache = text / "models", text / "compiled"
    weights.mkdir()
    (weights / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (weights / "model.safetensors").write_bytes(bytes(64))
    cache.mkdir()
    (cache / f"jit_step-{'0a' * 32}-cache").write_bytes(b"\x28\xb5\x2f\xfd")
    (cache / f"jit_step-{'0a' * 32}-atime").write_bytes(bytes(8))
    shutil.copyfile(tiny_run / "report.html", text / "mine.html")
    write_curve_png(tiny_run, text / "loss.png")
    names, said = read(text)
    assert names == MINE
    assert said == [
        f"{text}: left out files that Cairn wrote: compiled (a cache of compiled programs, 2 files, 12B),"
        " loss.png (a picture of a report), mine.html (a report) and 1 more"
    ]
    (text / "loss.png").unlink()
    assert "models (a folder of weights, 2 files, " in read(text)[1][0]


def test_settings_of_somebody_else_are_text(text):
    (text / "settings.json").write_text('{"text": "a setting"}')
    (text / "config.json").write_text('{"text": "of a program", "model": "T"}')
    (text / "dataset.json").write_text('[{"text": "rows"}]')
    (text / "status.json").write_text('"ok"')
    (text / "page.html").write_text("<title>{{ name }}: Cairn report</title>")
    assert read(text) == (
        ["a.txt", "config.json:1", "dataset.json:1", "page.html", "samples.txt", "settings.json:1", "status.json:1"],
        [],
    )


def test_links_into_runs_are_left_out(text, tiny_run):
    (text / "run").symlink_to(tiny_run)
    (text / "b.txt").symlink_to(tiny_run / "samples.txt")
    (text / "saved").symlink_to(tiny_run / "checkpoints")
    (text / "tokens").symlink_to(tiny_run / "data")
    names, said = read(text)
    assert names == MINE
    assert f"b.txt (of the run folder {tiny_run})" in said[0]


def test_a_run_in_the_very_folder_of_the_text(text, tiny_run):
    shutil.copytree(tiny_run, text, dirs_exist_ok=True)  # its samples.txt takes the place of the other
    for name in cairn_files.RUN_FILES:
        if not (text / name).exists():
            (text / name).write_text('{"step": 1}\n')
    for name in cairn_files.RUN_FOLDERS:
        (text / name).mkdir(exist_ok=True)
        (text / name / "part.txt").write_text("not a text to learn from")
    names, said = read(text)
    assert names == ["a.txt"]
    assert "of the run" in said[0]
    assert read(text / "a.txt")[0] == ["a.txt"]
    for name in ("samples.txt", "metrics.jsonl", "statistics.jsonl", "checkpoints", "data", "evaluations"):
        with pytest.raises(UserError, match=rf"{name}: the (file|folder) was written by the run {text}"):
            read(text / name)


def test_a_run_folder_is_no_text(tiny_run):
    with pytest.raises(UserError, match="holds no file with text in it .*files that Cairn wrote"):
        read(tiny_run)


def test_the_file_into_which_a_command_prints_is_no_text(text, monkeypatch):
    (text / "log.txt").write_text("what was printed")
    about = os.stat(text / "log.txt")
    monkeypatch.setattr(os, "fstat", lambda descriptor: about)
    names, said = read(text)
    assert names == MINE
    assert said == [f"{text}: left out files that Cairn wrote: log.txt (this command prints into it)"]


def test_every_file_of_a_run_is_known(tiny_run):
    """By these names Cairn tells the files of a run folder from the text that its user keeps in it."""
    found = {path.name for path in tiny_run.iterdir() if not path.name.startswith(".")}
    assert found <= {*cairn_files.RUN_FILES, *cairn_files.RUN_FOLDERS}


def test_a_dataset_beside_its_text_can_be_prepared_again(text, monkeypatch):
    monkeypatch.chdir(text)
    option = Data(path=".", tokenizer=Bytes(), validation=Tail(fraction=0.1))
    first = prepare(option, "tokens")
    before = json.loads((first / "dataset.json").read_text())
    assert prepare(option, "tokens") == first  # the text is the same
    (first / "dataset.json").unlink()
    assert json.loads((prepare(option, "tokens") / "dataset.json").read_text()) == before
    second = prepare(dataclasses.replace(option, tokenizer=Bytes(end_of_document=False)), "other")
    assert open_dataset(second).count("train", "bytes") == open_dataset(first).count("train", "bytes")


def test_a_run_inside_its_own_text_goes_on_where_it_ended(text, tiny_experiment, capfd):
    from train.loop import train

    experiment = tiny_experiment(data__path=str(text), training__num_steps=5, samples__prompts=())
    run = text / "runs" / "a"
    assert train(experiment, run, hard_stop=2, say=lambda line: None).step == 2
    dataset = open_dataset(run / "data")
    splits = dataset.splits.values()
    read = {split.document_name(d).split(" from")[0] for split in splits for d in range(split.num_documents)}
    assert read == set(MINE)
    outcome = train(experiment, run, say=lambda line: None)
    assert (outcome.state, outcome.step) == ("finished", 5)
    said = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 2  # once a command
    assert all(line.startswith(f"{text}: left out files that Cairn wrote: runs/a (a run folder, ") for line in said)
