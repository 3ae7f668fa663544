"""The command that compares two runs: its arguments, its forms of output."""

import json

import pytest

from train.lab.comparison import comparison


def test_two_runs_in_the_terminal_and_on_a_page(tiny_run, command, tmp_path):
    page = tmp_path / "page.html"
    status, said = command("launch.compare", tiny_run, tiny_run, "--noevaluate", f"--html={page}")
    assert status == 0
    for words in (f"A  {tiny_run}: finished", "Config\n  no difference", "Training loss\n", f"page: {page}"):
        assert words in said
    assert "Cairn report</title>" in page.read_text()


def test_flags_name_runs_too_and_the_text_is_handed_on(tiny_run, command, monkeypatch):
    calls, found = [], comparison.compare(tiny_run, tiny_run)
    monkeypatch.setattr(comparison, "compare", lambda a, b, **options: calls.append((a, b, options)) or found)
    arguments = [f"--a={tiny_run}", "other", "--text=1.txt", "--text=2.txt", "--documents=7", "--json"]
    status, said = command("launch.compare", *arguments)
    assert (status, json.loads(said)["changes"]) == (0, [])
    ((a, b, options),) = calls
    assert (a, b, options["texts"], options["max_documents"]) == (str(tiny_run), "other", ["1.txt", "2.txt"], 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected two run folders, got none"),
        (["RUN"], "expected two run folders, got 1"),
        (["RUN", "RUN", "RUN"], "expected two run folders, got 3"),
        (["RUN", "nowhere", "--noevaluate"], "there is no run folder 'nowhere'"),
        (["RUN", "RUN/data", "--noevaluate"], "is no run folder"),
        (["RUN", "RUN", "--noevaluate", "--text=a"], "--text has no effect with --evaluate=false"),
        (["RUN", "RUN", "--text=nowhere.txt"], "nowhere.txt"),
        (["RUN", "RUN", "--noevaluate", "--html=gs://bucket/x.html"], "gs://bucket/x.html"),
        (["RUN", "RUN", "--noevaluate", "--html=/nowhere/x.html"], "--html=/nowhere/x.html: its folder does not exist"),
    ],
)
def test_mistakes_are_named(arguments, message, tiny_run, command):
    status, said = command("launch.compare", *[argument.replace("RUN", str(tiny_run)) for argument in arguments])
    assert (status, "Traceback" in said) == (2, False)
    assert message in said
