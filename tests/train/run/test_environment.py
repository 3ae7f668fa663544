import json
import shutil
import subprocess

import pytest

from model.errors import UserError
from train.run import environment
from train.run.environment import git_state, read_sessions, record_session


def test_every_start_adds_an_entry(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert record_session(tmp_path / "run") == 1
    assert record_session(tmp_path / "run") == 2
    first, second = read_sessions(tmp_path / "run")
    assert (first["session"], second["session"]) == (1, 2)
    assert first["variables"]["OMP_NUM_THREADS"] == "3"
    assert first["devices"]["backend"] == "cpu"
    assert first["devices"]["count"] >= 1
    assert {"jax", "jaxlib", "flax", "numpy"} <= set(first["packages"])
    assert "hunter2" not in (tmp_path / "run/environment.json").read_text()


def test_a_damaged_file_is_kept_aside(tmp_path):
    (tmp_path / "environment.json").write_text('[{"session": 1')
    assert record_session(tmp_path) == 1
    assert (tmp_path / "environment.json.damaged").read_text() == '[{"session": 1'
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1


def test_a_file_that_cannot_be_read_stays(tmp_path):
    path = tmp_path / "environment.json"
    path.symlink_to(path)  # a loop, which nobody can open, root neither
    with pytest.raises(UserError, match=r"cannot read .*environment.json: Too many levels .*; nothing was changed"):
        record_session(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["environment.json"]
    assert path.is_symlink()


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "code"
    folder.mkdir()

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)

    git("init", "-b", "trunk")
    (folder / "tracked.py").write_text("x = 1\n")
    git("add", ".")
    return folder, git


def test_a_clean_and_a_changed_tree(repository, monkeypatch):
    folder, git = repository
    assert git_state(folder) == {"revision": None, "dirty": None, "why": "the repository has no commit yet"}
    git("commit", "-m", "first")
    clean = git_state(folder)
    assert len(clean["revision"]) == 40
    assert (clean["branch"], clean["dirty"], clean["diff"], clean["untracked"]) == ("trunk", False, "", [])

    (folder / "tracked.py").write_text("x = 2\n")
    (folder / "new.py").write_text("")
    changed = git_state(folder)
    assert changed["dirty"]
    assert "-x = 1\n+x = 2\n" in changed["diff"]
    assert changed["untracked"] == ["new.py"]

    monkeypatch.setattr(environment, "MAX_DIFF_CHARACTERS", 10)
    cut = git_state(folder)
    assert (len(cut["diff"]), cut["diff_cut_at"]) == (10, 10)


def test_code_installed_inside_another_project_is_not_its_revision(repository):
    folder, git = repository
    git("commit", "-m", "first")
    (folder / "site-packages").mkdir()
    (folder / "site-packages/installed.py").write_text("")
    assert git_state(folder / "site-packages")["revision"] is None


def test_no_repository_and_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path)["revision"] is None
    assert git_state(tmp_path)["why"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git did not run" in git_state(tmp_path)["why"]
