"""The runs while they run, as lines and as a table on a terminal."""

import io
import json

import pytest

from tests.train.lab.ablation_files import pretend
from train.lab.ablation import Ablation
from train.lab.folder import runs_of
from train.lab.live_table import LiveTable
from train.lab.variants import resolve


@pytest.fixture
def runs(tiny_experiment, tmp_path):
    ablation = Ablation(base=tiny_experiment(), variants={"wide": "model.ffn.width=96"}, seeds=(0, 1))
    return runs_of(tmp_path, ablation, resolve(ablation))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_when_a_state_changes(runs, monkeypatch):
    monkeypatch.setattr("train.lab.live_table._READ_SECONDS", 0)
    pretend(runs[0], 3.0)
    shown = io.StringIO()
    with LiveTable("loss", runs, "loss", shown) as table:
        table.update([runs[1].label])
        table.update([runs[1].label])
        runs[1].folder.mkdir()
        (runs[1].folder / "status.json").write_text(json.dumps({"state": "failed", "step": 5, "reason": "no\x1broom"}))
        pretend(runs[2], 4.0)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "base-seed0: finished, loss 3.0000  (1 of 4 finished)"
    assert lines[1] == "wide-seed0: running, step 0 of 20  (1 of 4 finished)"
    assert lines[2].startswith("wide-seed0: failed, step 5 of 20, no\\x1broom  (2 of 4 finished")
    assert lines[3].startswith("base-seed1: finished, loss 4.0000")
    assert len(lines) == 4


def test_a_table_on_a_terminal(runs, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    pretend(runs[0], 3.0)
    pretend(runs[3], 4.0, "failed")
    shown = Terminal()
    with LiveTable("loss of the runs", runs, "loss", shown) as table:
        table.update([runs[1].label])
    words = shown.getvalue()
    for expected in (
        "loss of the runs: 1 of 4 finished",
        "seed 0",
        "seed 1",
        "base",
        "wide",
        "3.0000",
        "FAILED 4.0000",
    ):
        assert expected in words


def test_a_search_has_a_row_for_each_run(runs, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    same = [runs[0], type(runs[0])(runs[0].folder.with_name("base-rate1"), "base", 0, (), runs[0].experiment)]
    with LiveTable("rates", same, "loss", shown):
        pass
    assert "base-rate1" in shown.getvalue()
