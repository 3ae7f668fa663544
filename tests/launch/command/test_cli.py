import errno
import os
import pwd
import sys
import tempfile

import jax
import pytest

from launch.command import cli, streams
from launch.command.signals import EXIT_PREEMPTED
from model.errors import UserError
from train.evaluation import evaluate


@pytest.fixture
def nobody(monkeypatch):
    """A process without HOME whose user is unknown to the system, as in many containers."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_programs_are_not_kept(nobody, capsys):
    assert cli.compilation_cache() is None
    said = capsys.readouterr().err
    assert said.startswith(
        "compiled programs are not kept for the next run in ~/.cache/cairn/xla: no home folder is known"
    )
    assert said.count("\n") == 1


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        assert cli.compilation_cache() is None
        said = capsys.readouterr().err
        assert said.startswith(f"compiled programs are not kept for the next run in {folder}: ")
        assert said.count("\n") == 1


def test_a_full_disk(monkeypatch, tmp_path, capsys):
    def full(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert cli.compilation_cache() is None
    assert f"{tmp_path}: No space left on device; give JAX_COMPILATION_CACHE_DIR" in capsys.readouterr().err


def test_where_programs_are_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, folder in (("", ".cache/cairn/xla"), ("~/mine", "mine")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        assert cli.compilation_cache() == str(tmp_path / folder)
        assert [path.name for path in (tmp_path / folder).iterdir()] == [".cairn-checked"]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla")
    assert cli.compilation_cache() == "gs://bucket/xla"
    assert capsys.readouterr().err == ""


def test_a_run_is_evaluated_without_a_home(nobody, command, tiny_run):
    before = jax.config.jax_compilation_cache_dir
    try:
        status, printed = command("launch.evaluate", f"--run={tiny_run}")
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert status == 0, printed
    assert "Traceback" not in printed
    assert "bits per byte" in printed


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("train", ["--config=~no-one/x"]),
        ("train", ["--run=~no-one/x"]),
        ("quickstart", ["--config=~no-one/x"]),
        ("quickstart", ["--run=~no-one/x"]),
        ("evaluate", ["--run=~no-one/x"]),
        ("evaluate", ["--text=~no-one/x"]),
        ("generate", ["--run=~no-one/x"]),
        ("generate", ["--prompts_file=~no-one/x"]),
        ("tokenize", ["--input=~no-one/x"]),
        ("tokenize", ["--output=~no-one/x"]),
        ("tokenize", ["--tokenizer=~no-one/x"]),
        ("tokenize", ["--validation=~no-one/x"]),
        ("data", ["show", "--run=~no-one/x"]),
        ("data", ["info", "--path=~no-one/x"]),
        ("report", ["--run=~no-one/x"]),
        ("report", ["--curve=~no-one/x"]),
        ("convert", ["--from=~no-one/x"]),
        ("convert", ["--to=~no-one/x"]),
        ("convert", ["--run=~no-one/x"]),
        ("convert", ["--like=~no-one/x"]),
    ],
)
def test_every_flag_that_is_a_path_knows_home_folders(module, arguments, command):
    status, printed = command(f"launch.{module}", *arguments)
    assert status == 2
    flag = arguments[-1].partition("=")[0]
    assert printed.startswith(f"error: flag {flag}=~no-one/x: ~no-one/x: this system knows no user 'no-one'")


def test_home_folders_in_flags_and_fields(command, tiny_experiment, tiny_text, write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_config(tiny_experiment(), tmp_path / "tiny.py")
    (tmp_path / "text").symlink_to(tiny_text)
    arguments = ("--config=~/tiny.py", "--set=data.path=~/text", "--print_config")
    status, printed = command("launch.train", *arguments)
    assert status == 0, printed
    assert f'"path": "{tmp_path}/text"' in printed
    status, printed = command("launch.train", *arguments, "--set=training.init_from=~no-one/run")
    assert status == 2
    assert "error: training.init_from=~no-one/run: this system knows no user" in printed


def test_a_locale_that_reads_names_otherwise_than_the_libraries(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert cli._locale_error(["--run=plain"]) is None
    assert "and the encoding of this locale is ascii; run the command in a locale with UTF-8" in cli._locale_error(
        ["--run=é"]
    )
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "utf-8")
    assert cli._locale_error(["--run=é"]) is None


def test_a_signal_ends_what_saves_nothing_with_one_line(command, tiny_run, monkeypatch):
    def signalled(*arguments, **options):
        os.kill(os.getpid(), 1)  # SIGHUP
        raise AssertionError("the signal did not cut it")

    monkeypatch.setattr(evaluate, "score", signalled)
    status, printed = command("launch.evaluate", f"--run={tiny_run}")
    assert status == EXIT_PREEMPTED
    assert printed.endswith("interrupted by SIGHUP; run the same command again\n")


@pytest.mark.parametrize(("prints_result", "status"), [(True, 2), (False, 0)])
def test_a_result_that_was_not_written_is_an_error_and_a_log_is_none(prints_result, status, monkeypatch, capsys):
    def main(argv):
        print("the result")
        return 0

    monkeypatch.setattr(sys, "argv", ["command"])
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(sys, "stdout", streams._non_raising_stream(full.fileno(), None, fallback=None))
        with pytest.raises(SystemExit) as ended:
            cli.run(main, prints_result=prints_result)
        sys.stdout.flush()
    assert (ended.value.code or 0) == status
    assert ("standard output was not written (No space left on device)" in capsys.readouterr().err) == prints_result


COMMANDS = "bench convert data evaluate generate plan quickstart report submit tokenize".split()


@pytest.mark.parametrize("name", [*COMMANDS, "train"])
def test_every_command_but_train_is_refused_as_several_tasks(name, command, monkeypatch):
    """Those that hold no model too: each task would write the same report or dataset."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    status, printed = command(f"launch.{name}")
    assert status == 2
    refused = "this command runs as one process, and srun started 4, of which this is number 3; start it once"
    assert (refused in printed) == (name != "train")


@pytest.mark.parametrize(
    "error", [RuntimeError("a collective failed"), ValueError("no"), OSError("no number"), KeyError(1)]
)
def test_any_error_of_one_of_several_processes_is_told_to_the_others(error, monkeypatch, capsys):
    left = []
    monkeypatch.setattr(cli.hosts, "joined", lambda: True)
    monkeypatch.setattr(cli.hosts, "leave", lambda status, failure=None: left.append((status, failure)))
    monkeypatch.setattr(sys, "argv", ["command"])

    def main(argv):
        raise error

    with pytest.raises(type(error)):
        cli.run(main)
    assert left == [(1, repr(error))]
    assert "Traceback" in capsys.readouterr().err


def test_a_command_of_one_process_is_refused_in_a_job_of_several(monkeypatch):
    """It would do the same work in each, and write the same files."""
    variables = {"JOB_ID": "7", "STEP_NODELIST": "node[3-4]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(UserError, match="says that it is number 1 of 2; start it once, such as with srun --ntasks=1"):
        cli.prepare_jax()
