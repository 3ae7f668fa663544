"""The command launch.inspect: its listing, errors, files."""

import json

import pytest


def test_without_an_instrument_it_lists_them(command):
    status, printed = command("launch.inspect")
    assert status == 0
    assert "attention  " in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["atention", "--run=x"], "lists them; did you mean 'attention'?"),
        (["attention"], "--run is missing"),
        (["attention", "--run=nowhere", "--text=a"], "nowhere is no run folder"),
        (["map", "--run=x", "--checkpoint=1", "--checkpoints=1,2"], "--checkpoint has no effect beside --checkpoints"),
        (["attention", "--run=nowhere"], "--text is missing, which attention needs"),
        (["attention", "more", "--run=nowhere"], "unexpected argument 'more'"),
        (["attention", "--run=nowhere", "--text=a", "--layers=x"], "--layers=x: expected whole numbers"),
        (["--run=nowhere"], "expected an instrument before the flags"),
        (["attention", "--run=nowhere", "--text_file=nowhere.txt"], "--text_file=nowhere.txt cannot be read"),
    ],
)
def test_mistakes_are_one_message(command, arguments, words):
    status, printed = command("launch.inspect", *arguments)
    assert (status, "Traceback" in printed) == (2, False)
    assert words in printed


def test_the_files_go_into_the_run_or_where_they_are_asked_for(command, tiny_run, tmp_path):
    (tmp_path / "text.txt").write_text("the old dog\n", encoding="utf-8")
    status, printed = command(
        "launch.inspect",
        "attention",
        f"--run={tiny_run}",
        f"--text_file={tmp_path / 'text.txt'}",
        "--layers=-1",
        f"--output={tmp_path / 'out'}",
    )
    assert status == 0, printed
    assert f"page: {tmp_path / 'out' / 'index.html'}" in printed
    assert json.loads((tmp_path / "out" / "result.json").read_text())["tokens"][1:4] == list("the")
    status, printed = command(
        "launch.inspect", "attention", f"--run={tiny_run}", "--text=a", f"--text_file={tmp_path / 'text.txt'}"
    )
    assert "--text and --text_file are two texts" in printed


def test_a_vector_steers_generation(command, tiny_run, tmp_path):
    made = ["steer", f"--run={tiny_run}", "--positive=the cat", "--negative=a dog", f"--output={tmp_path / 'v'}"]
    status, printed = command("launch.inspect", *made)
    assert status == 0, printed
    asked = [f"--run={tiny_run}", "--prompt=the", "--max_tokens=8", "--temperature=0"]
    texts = set()
    for scale in (3000, -3000):
        status, printed = command("launch.generate", *asked, f"--steer={tmp_path / 'v'}:{scale}")
        assert status == 0, printed
        texts.add(printed.splitlines()[0])
    assert len(texts) == 2
    for value, words in (("nowhere:1", "no file nowhere"), (f"{tmp_path}/v", "expected FILE:SCALE")):
        status, printed = command("launch.generate", *asked, f"--steer={value}")
        assert (status, "Traceback" in printed) == (2, False)
        assert words in printed
    status, printed = command("launch.generate", *asked, "--chat", "--steer=x:1")
    assert "--steer has no effect with --output, --chat" in printed


def test_a_tokenizer_needs_no_weights(command, tiny_run, tmp_path):
    status, printed = command("launch.inspect", "tokens", f"--run={tiny_run}", "--text=né", f"--output={tmp_path}")
    assert status == 0, printed
    assert "3 tokens" in printed
    status, printed = command("launch.inspect", "tokens", f"--run={tiny_run}", "--text=a", "--checkpoint=10")
    assert (status, "--checkpoint has no effect here" in printed) == (2, True)
