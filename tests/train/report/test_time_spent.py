"""The section about time: its rows add up, and the page shows them."""

import json

from train.report import write_report
from train.report.run import load
from train.report.time_spent import goodput_headline, profile_rows, time_rows
from train.run.time_spent import ACTIVITIES


def write(folder, *sessions):
    lines = []
    for number, (first, step, begin, spent) in enumerate(sessions, start=1):
        spent = dict.fromkeys(ACTIVITIES, 0.0) | spent
        seconds = sum(spent.values())
        head = {"session": number, "first": first, "step": step, "time": begin + seconds, "seconds": seconds}
        lines.append(json.dumps(head | spent))
    (folder / "time_spent.jsonl").write_text("\n".join(lines) + "\n")


def test_a_run_with_a_restart(tmp_path):
    write(tmp_path, (0, 100, 0, {"steps": 60, "saving": 20}), (50, 100, 100, {"steps": 30, "waiting": 10}))
    run = load(tmp_path)
    assert time_rows(run) == [
        ("training steps", "1m 00s, 42.9%", "42.9", True),
        ("waiting for batches", "10s, 7.1%", "7.1", False),
        ("checkpoints", "20s, 14.3%", "14.3", False),
        ("steps done again after a restart", "30s, 21.4%", "21.4", False),
        ("between two sessions", "20s, 14.3%", "14.3", False),
    ]
    (headline,) = goodput_headline(run)
    assert (headline.value, headline.note) == ("42.9%", "of 2m 20s and 2 sessions")
    assert "steps done again after a restart" in write_report(tmp_path).read_text()


def test_a_run_without_the_file_has_no_section(tmp_path):
    run = load(tmp_path)
    assert (time_rows(run), goodput_headline(run), profile_rows(run)) == ([], [], [])
    assert "<h2>Time</h2>" not in write_report(tmp_path).read_text()


def test_damaged_files_are_left_out_and_named(tmp_path):
    (tmp_path / "time_spent.jsonl").write_text("no json\n")
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "operations.json").write_text('{"operations": [{"name": 3}]}')
    run = load(tmp_path)
    assert (time_rows(run), profile_rows(run)) == ([], [])
    assert any("time_spent.jsonl" in note for note in run.notes)
    assert any("operations.json" in note for note in run.notes)
