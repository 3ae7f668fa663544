"""Differences of two run folders, one change at a time."""

import json
import shutil

import pytest

from model.errors import UserError
from train.data.shards.dataset import dataset_of_run
from train.lab.comparison.differences import Change, differences, identity_of
from train.report.run import load


@pytest.fixture
def changed(tiny_run, tmp_path):
    """A function that copies the run without checkpoints, changes JSON files of the copy, and returns its differences."""

    def change(**files):
        copy = tmp_path / "copy"
        shutil.copytree(tiny_run, copy, ignore=shutil.ignore_patterns("checkpoints"))
        for name, edit in files.items():
            path = copy / f"{name}.json"
            tree = json.loads(path.read_text())
            edit(tree)
            path.write_text(json.dumps(tree))
        identity = identity_of(tiny_run)
        return differences(load(tiny_run), load(copy), (identity, identity))

    return change


def test_a_run_does_not_differ_from_its_copy(changed):
    assert changed() == []


def test_fields_of_the_config_and_whether_they_can_change_a_result(changed):
    def edit(config):
        config["model"]["width"] = 64
        config["optimizer"] = {"type": "Lion"}
        config["checkpoints"]["every"] = 3
        config["model"]["scan_layers"] = False

    found = {change.name: change for change in changed(config=edit)}
    assert found["model.width"] == Change("config", "model.width", "32", "64", True)
    assert found["checkpoints.every"] == Change("config", "checkpoints.every", "10", "3", False)
    assert not found["model.scan_layers"].changes_results
    assert found["optimizer"].b == "Lion()"
    assert set(found) == {"model.width", "checkpoints.every", "model.scan_layers", "optimizer"}


def test_a_config_that_does_not_fit_the_code_is_compared_as_it_is(changed):
    (found,) = changed(config=lambda config: config["model"].update(invented=3))
    assert found == Change("config", "model.invented", "None", "3", None)


def test_code_and_environment(changed):
    def edit(sessions):
        last = sessions[-1]
        last["git"] = {"revision": "f00", "branch": last["git"].get("branch"), "diff": "+a\n+b\n", "dirty": True}
        last["packages"]["jax"] = "9.9"
        last["variables"]["XLA_FLAGS"] = "--other"
        last["host"]["cpus"] = 1000
        last["python"] = "4.0"

    found = {(change.section, change.name): change for change in changed(environment=edit)}
    assert found["code", "revision"].b == "f00"
    assert found["code", "uncommitted changes"].b.startswith("2 lines of diff")
    assert found["environment", "packages.jax"].b == "9.9"
    assert found["environment", "variables.XLA_FLAGS"].b == "--other"
    assert found["environment", "host.cpus"].changes_results is None
    assert found["environment", "python"].changes_results
    assert len(found) == 6


def test_data_of_other_tokens_and_of_other_sizes(tiny_run):
    run, identity = load(tiny_run), identity_of(tiny_run)
    assert identity.same_split(identity, "validation")
    assert not identity.same_split(identity, "test")
    counts, _ = identity.splits["train"]
    others = [
        type(identity)("x", identity.tokenizer, identity.splits | {"train": (counts, "other")}),
        type(identity)(
            "x", "SentencePiece 12ab", {"train": identity.splits["train"], "validation": ("1 documents", "y")}
        ),
    ]
    assert [change.name for change in differences(run, run, (identity, others[0]))] == [
        "tokens of the train split, digest"
    ]
    assert [change.name for change in differences(run, run, (identity, others[1]))] == ["tokenizer", "validation split"]
    assert not identity.same_split(others[1], "train")
    (gone,) = differences(run, run, (identity, None))
    assert (gone.name, gone.b) == ("dataset", "gone")
    assert differences(run, run, (None, None)) == []


def test_the_identity_is_that_of_the_tokens(tiny_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run / "data", copy / "data")
    moved = identity_of(copy)
    assert moved.splits == identity_of(tiny_run).splits
    assert str(moved.folder) != str(dataset_of_run(tiny_run).folder)
    with pytest.raises(UserError, match="has no dataset"):
        identity_of(tmp_path)


def test_folders_with_parts_missing(tiny_run, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    found = differences(load(tiny_run), load(tmp_path), (None, None))
    assert {(change.section, change.name) for change in found} == {
        ("config", "config.json"),
        ("code", "revision"),
        ("code", "branch"),
        ("environment", "environment.json"),
    } | ({("code", "uncommitted changes")} if load(tiny_run).sessions[-1]["git"].get("diff") else set())
