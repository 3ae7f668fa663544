import json
import pathlib
import re
import subprocess
import sys

import pytest

from train.generation.continuations import Continuation

MODULE = "launch.generate"
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def answers(call, tiny_run, tmp_path_factory):
    """The answers of one process to many calls, by name."""
    files = tmp_path_factory.mktemp("prompts")
    (files / "lines.txt").write_text("the cat\n\nold café\n")
    (files / "lines.jsonl").write_text('{"prompt": "two\\nlines"}\n')
    (files / "bad.jsonl").write_text('{"text": "x"}\n')
    (files / "bad.txt").write_bytes(b"a\xff")
    (files / "blank.txt").write_text(" \n")
    run, sampled = f"--run={tiny_run}", ("--prompt=the cat", "--max_tokens=12", "--seed=3")
    calls = {
        "live": (run, *sampled),
        "json": (run, *sampled, "--json"),
        "other seed": (run, *sampled[:2], "--seed=4", "--json"),
        "best": (run, *sampled, "--json", "--checkpoint=best"),
        "step": (run, *sampled, "--json", "--checkpoint=10"),
        "greedy": (run, "--prompt=the ", "--temperature=0", "--max_tokens=14", "--json"),
        "filters": (run, *sampled, "--top_k=5", "--top_p=0.9", "--min_p=0.05", "--repetition_penalty=1.3", "--json"),
        "batch": (run, "--prompt=a", "--prompt=the cat", "--num_samples=3", "--max_tokens=5", "--batch_size=2"),
        "file": (run, f"--prompts_file={files}/lines.txt", "--prompt=first", "--max_tokens=2", "--json"),
        "jsonl": (run, f"--prompts_file={files}/lines.jsonl", "--max_tokens=2", "--json"),
        "no prompt": (run, "--max_tokens=4", "--json"),
        "context": (run, "--prompt=" + "x" * 31, "--json"),
        "too long": (run, "--prompt=" + "x" * 40),
        "no text": (run, "--prompt=a", "--prompt=b\udcff"),  # as Python keeps the byte 0xff of an argument
        "no run": ("--prompt=x",),
        "nowhere": (f"--run={files}/nowhere",),
        "loose words": (run, "two", "words"),
        "no such checkpoint": (run, "--checkpoint=11"),
        "top_p": (run, "--top_p=1.5"),
        "useless top_p": (run, "--temperature=0", "--top_p=0.5"),
        "same samples": (run, "--temperature=0", "--num_samples=2"),
        "num_samples": (run, "--num_samples=0"),
        "empty stop": (run, "--stop="),
        "no file": (run, f"--prompts_file={files}/nowhere.txt"),
        "bad jsonl": (run, f"--prompts_file={files}/bad.jsonl"),
        "bad file": (run, f"--prompts_file={files}/bad.txt"),
        "blank file": (run, f"--prompts_file={files}/blank.txt"),
        "unknown flag": (run, "--top_q=1"),
        "regex": (run, "--prompt=the", "--regex=[0-9]{3}x", "--json", "--num_samples=3", "--batch_size=2"),
        "two constraints": (run, "--regex=a", "--choice=b"),
        "no schema": (run, f"--json_schema={files}/nowhere.json"),
        "bad schema": (run, f"--json_schema={files}/lines.txt"),
        "steered": (run, "--regex=a", "--steer=x:1"),
        "template": (run, "--regex=a", "--chat_template=x"),
    }
    found = dict(zip(calls, call(MODULE, calls.values()), strict=True))
    # A second process for the calls that depend on the text of the first.
    text = json.loads(found["greedy"].out)["samples"][0]["text"]
    stops = {
        "stop": (*calls["greedy"], f"--stop={text[4:7]}", "--stop=@@"),
        "live stop": (*calls["greedy"][:-1], f"--stop={text[4:7]}"),
    }
    return found | dict(zip(stops, call(MODULE, stops.values()), strict=True))


def samples(answer):
    assert answer.status == 0, answer.err
    return json.loads(answer.out)["samples"]


def test_a_single_text_goes_to_standard_output_alone(answers):
    live, (sample,) = answers["live"], samples(answers["json"])
    assert live.status == 0
    assert live.out == f"the cat{sample['text']}\n"
    assert f"{sample['tokens']} tokens" in live.err
    assert "tokens/s; cache 0.0 MB" in live.err


def test_json_says_what_was_asked_and_how_it_ended(answers):
    whole = json.loads(answers["json"].out)
    assert whole["step"] == 20
    assert whole["seed"] == 3
    (sample,) = whole["samples"]
    assert sample["prompt"] == "the cat"
    assert sample["ended_by"] in ("max_tokens", "end_of_document")
    assert sample["tokens"] <= 12


def test_seed_checkpoint_and_filters_are_live(answers):
    base = samples(answers["json"])[0]["text"]
    for name in ("other seed", "filters"):
        assert samples(answers[name])[0]["text"] != base, name
    assert json.loads(answers["step"].out)["step"] == 10
    assert json.loads(answers["best"].out)["step"] in (10, 20)


def test_a_batch_comes_in_order_with_several_samples_of_each(answers):
    out = answers["batch"].out
    heads = [line for line in out.splitlines() if line.startswith("=== ")]
    assert [head.split(",")[0] for head in heads] == [f"=== {n} of 6" for n in range(1, 7)]
    parts = out.split("===\n")[1:]
    assert all(part.startswith("a") for part in parts[:3])
    assert all(part.startswith("the cat") for part in parts[3:])
    assert len({part.partition("=== ")[0] for part in parts}) > 2


def test_prompts_come_from_files_too(answers):
    assert [s["prompt"] for s in samples(answers["file"])] == ["first", "the cat", "old café"]
    assert [s["prompt"] for s in samples(answers["jsonl"])] == ["two\nlines"]
    assert [s["prompt"] for s in samples(answers["no prompt"])] == [""]


@pytest.mark.parametrize(
    ("torn", "said"),
    [
        ((True,), "\nthe text ends amid the bytes of a character, shown as U+FFFD; more --max_tokens finish it\n"),
        ((False, True), "\n1 of 2 texts end amid the bytes of a character, shown as U+FFFD; more --max_tokens"),
        ((False,), None),
    ],
)
def test_a_character_that_a_limit_cut_is_told(tiny_run, command, monkeypatch, torn, said):
    def drawn(engine, requests, ahead, on_text, results):
        results += [Continuation("a\ufffd", 2, "max_tokens", 0.1, ends_mid_character=one) for one in torn]

    monkeypatch.setattr("launch.command.engine_texts.continue_all", drawn)
    status, printed = command(MODULE, f"--run={tiny_run}", *["--prompt=x"] * len(torn), "--json")
    assert status == 0
    assert "amid" not in printed if said is None else said in printed
    assert printed.count("a\ufffd") == len(torn)


def test_a_stop_string_is_cut_off_exactly(answers):
    (whole,), (sample,) = samples(answers["greedy"]), samples(answers["stop"])
    stop = whole["text"][4:7]
    assert sample["text"] == whole["text"][: whole["text"].index(stop)]
    assert sample["ended_by"] == "stop_string"
    assert answers["live stop"].out == f"the {sample['text']}\n"


def test_texts_keep_to_an_expression(answers):
    drawn = samples(answers["regex"])
    assert all(re.fullmatch("[0-9]{3}x", sample["text"]) for sample in drawn)
    assert [(sample["prompt"], sample["ended_by"]) for sample in drawn] == [("the", "constraint")] * 3


def test_the_context_ends_a_text(answers):
    # The mark and 31 bytes fill the context of 32: one token more.
    (sample,) = samples(answers["context"])
    assert sample["tokens"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too long", "prompt 1 has 41 tokens"),
        ("too long", "context of 32"),
        ("no text", "--prompt number 2 is not UTF-8 at character 1; use a terminal with UTF-8, or"),
        ("no run", "--run is missing"),
        ("nowhere", "no run folder"),
        ("loose words", "unexpected argument 'two'"),
        ("no such checkpoint", "no checkpoint '11'"),
        ("top_p", "--top_p: must be above 0 and at most 1, got 1.5"),
        ("useless top_p", "--top_p: has nothing to choose from"),
        ("same samples", "the same text each time"),
        ("num_samples", "--num_samples must be at least 1"),
        ("empty stop", "--stop is empty"),
        ("no file", "cannot be read"),
        ("bad jsonl", "bad.jsonl, line 1: expected"),
        ("bad file", "not UTF-8 at byte 1"),
        ("blank file", "holds no prompt"),
        ("unknown flag", "top_q"),
        ("two constraints", "--regex and --choice both say which texts may be drawn; give one of them"),
        ("no schema", "nowhere.json cannot be read: No such file"),
        ("bad schema", "the JSON schema cannot be used: "),
        ("steered", "--steer has no effect with --output, --chat, --set, --draft and constraints"),
        ("template", "--chat_template has no effect without --chat"),
    ],
)
def test_mistakes_are_one_message_and_exit_2(answers, name, message):
    answer = answers[name]
    assert answer.status == 2, answer
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert not answer.out


def test_help_is_a_page(tmp_path):
    program = [sys.executable, "-m", MODULE, "--help"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Generates texts with a trained model" in done.stdout
    assert "--[no]json" in done.stdout
