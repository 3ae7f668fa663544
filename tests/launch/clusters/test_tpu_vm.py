"""The script for Cloud TPU VMs as a shell runs it, with a gcloud that is not one."""

import subprocess

import pytest

from launch.clusters import job as jobs
from launch.clusters.job import Job
from launch.clusters.tpu_vm import TpuVm
from model.errors import UserError
from tests.launch.clusters.fakes import Fakes

SETTING = """samples.prompts=("it's $HOME",)"""
JOB = Job(config="configs/quickstart.py", run="/runs/a b", settings=(SETTING,))
TPU_VM = TpuVm(topology="v5e:4x4", zone="us-west4-a", setup="true", folder="my code")
ACTIVE = ("describe", 0, "ACTIVE\n", "")
TRAIN = "--command=" + TPU_VM.text(JOB).split("'--command=")[1].split("\n")[0].removesuffix("'").replace("'\"'\"'", "'")


def verbs(fakes):
    return [next(w for w in words if w in ("create", "describe", "ssh", "delete")) for words in fakes.calls("gcloud")]


def test_a_run_that_ends(tmp_path):
    fakes = Fakes(tmp_path, ["gcloud"], {"gcloud": [("describe", 0, "PROVISIONING\n", ""), ACTIVE]})
    (tmp_path / "sleep").symlink_to("/bin/true")
    assert fakes.run(TPU_VM.text(JOB)) == 0
    assert verbs(fakes) == ["create", "describe", "describe", "ssh", "ssh", "delete"]


def test_every_host_gets_the_command_as_it_was_given(tmp_path):
    """The text passes two shells: that of the script, and that of the host."""
    fakes = Fakes(tmp_path, ["gcloud"], {"gcloud": [ACTIVE]})
    assert fakes.run(TPU_VM.text(JOB)) == 0
    _, train = [words for words in fakes.calls("gcloud") if "ssh" in words]
    assert {"--worker=all", "--batch-size=all"} <= set(train)
    (tmp_path / "my code").mkdir()
    (command,) = (word.removeprefix("--command=") for word in train if word.startswith("--command="))
    (tmp_path / "python3").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    shown = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={"PATH": fakes.path}, capture_output=True, text=True
    )
    assert shown.stdout.split("\0")[:-1] == JOB.command()[1:]


@pytest.mark.parametrize("status", [69, 70, 75, 255])
def test_a_run_that_can_continue_gets_other_slices(status, tmp_path):
    fakes = Fakes(tmp_path, ["gcloud"], {"gcloud": [ACTIVE, ACTIVE, (TRAIN, status, "", "")]})
    assert fakes.run(TPU_VM.text(JOB)) == 0
    assert verbs(fakes) == ["create", "describe", "ssh", "ssh", "delete"] * 2


def test_a_slice_that_is_taken_away_while_it_is_made(tmp_path):
    fakes = Fakes(tmp_path, ["gcloud"], {"gcloud": [("describe", 0, "SUSPENDED\n", ""), ACTIVE]})
    assert fakes.run(TPU_VM.text(JOB)) == 0
    assert verbs(fakes) == ["create", "describe", "delete", "create", "describe", "ssh", "ssh", "delete"]


def test_a_mistake_is_not_tried_again(tmp_path):
    fakes = Fakes(tmp_path, ["gcloud"], {"gcloud": [ACTIVE, (TRAIN, 2, "", "")]})
    assert fakes.run(TPU_VM.text(JOB)) == 2
    assert verbs(fakes) == ["create", "describe", "ssh", "ssh", "delete"]


def test_a_name_that_is_taken(tmp_path):
    """Another run with this folder name: gcloud refuses to make the slices, and they are not deleted."""
    fakes = Fakes(tmp_path, ["gcloud"], {"gcloud": [("create", 1, "", "ALREADY_EXISTS\n")]})
    assert fakes.run(TPU_VM.text(JOB)) == 1
    assert verbs(fakes) == ["create"]


def test_gcloud_is_not_installed(monkeypatch):
    monkeypatch.setattr(jobs.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="gcloud is not installed here; install it: https.* or add --dry_run"):
        TPU_VM.submit(JOB)
