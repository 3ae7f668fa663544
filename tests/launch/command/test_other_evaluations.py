"""launch.evaluate with --probes, --harness and --questions."""

import json

import pytest


@pytest.fixture(scope="module")
def answers(call, tiny_run, tmp_path_factory):
    """The answers of one process to many calls, by name."""
    page = tmp_path_factory.mktemp("pages") / "probes.html"
    asked, given = page.with_name("asked.jsonl"), page.with_name("given.jsonl")
    asked.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "c", "answer": "d"}\n')
    pairs = page.with_name("pairs.jsonl")
    pairs.write_text("".join(f'{{"prompt": "a", "chosen": "{x}", "rejected": "no"}}\n' for x in ("yes", "so")))
    run = f"--run={tiny_run}"
    questions = (run, f"--questions={asked}", "--answer_tokens=2")
    calls = {
        "table": (run, "--probes=induction", "--sequences=8", f"--html={page}"),
        "json": (run, "--probes=induction", "--sequences=8", "--probe_seed=1", "--json"),
        "unknown": (run, "--probes=inducton"),
        "both": (run, "--probes=induction", "--harness=arc_easy"),
        "text": (run, "--probes=induction", "--text=a.txt"),
        "sequences": (run, "--sequences=8"),
        "folder": (run, "--harness_folder=tasks"),
        "questions": (*questions, f"--answers={given}"),
        "questions and probes": (*questions, "--probes=induction"),
        "answers": (run, "--answers=a.jsonl"),
        "page of questions": (*questions, f"--html={page}"),
        "win rate": (*questions, f"--win_rate={tiny_run}"),
        "no judge": (*questions, f"--win_rate={tiny_run}", f"--judge={tiny_run}"),
        "judge": (*questions, f"--judge={tiny_run}"),
        "reference": (run, f"--reference={tiny_run}"),
        "preferences": (run, f"--preferences={pairs}", f"--reference={tiny_run}"),
        "likelihood": (run, f"--preferences={pairs}", "--json"),
        "page of preferences": (run, f"--preferences={pairs}", f"--html={page}"),
        "no package": (run, "--harness=arc_easy"),
    }
    return dict(zip(calls, call("launch.evaluate", calls.values()), strict=True)) | {"page": page, "given": given}


def test_probes_are_printed_and_drawn(answers):
    table = answers["table"]
    assert table.status == 0, table.err
    assert "induction: Induction(num_symbols_drawn=256, length=31, shortest=None)" in table.out
    assert "loss of: uniform" in table.out
    assert "Accuracy in the repetition" in answers["page"].read_text()
    found = json.loads(answers["json"].out)
    assert (found["seed"], found["num_sequences"]) == (1, 8)
    assert found["probes"][0]["numbers"]["loss"] > 0


def test_questions_are_answered_and_the_answers_kept(answers):
    assert answers["questions"].status == 0, answers["questions"].err
    assert answers["questions"].out.startswith("2 questions\nexact match")
    rows = [json.loads(line) for line in answers["given"].read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["b", "d"]
    assert set(rows[0]) == {"row", "prompt", "answer", "given", "strict", "lenient"}


def test_two_runs_are_compared_by_their_answers(answers):
    found = answers["win rate"]
    assert found.status == 0, found.err
    assert "2 prompts, judged by right answers" in found.out
    assert "wins 0, ties 2, losses 0" in found.out
    assert "win rate    50.0%" in found.out


def test_pairs_are_ordered(answers):
    """A model that is its own reference has no implicit reward; without a reference it has likelihoods."""
    same = answers["preferences"]
    assert same.status == 0, same.err
    assert same.out.startswith("2 pairs, ordered by implicit reward\naccuracy  50.0%")
    found = json.loads(answers["likelihood"].out)
    assert (found["measure"], found["pairs"]) == ("log-probability", 2)
    assert found["margin_low"] <= found["margin"] <= found["margin_high"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown", "--probes: no probe is called 'inducton'"),
        ("both", "--probes and --harness are 2 evaluations"),
        ("text", "--text has no effect beside --probes"),
        ("sequences", "--sequences has no effect without --probes"),
        ("folder", "--harness_folder has no effect without --harness"),
        ("no judge", "is no reward model: it has no score head"),
        ("judge", "--judge has no effect without --win_rate"),
        ("reference", "--reference has no effect without --preferences"),
        ("page of preferences", "--html has no page of --preferences"),
        ("questions and probes", "--probes and --questions are 2 evaluations; give one at a time"),
        ("answers", "--answers has no effect without --questions"),
        ("page of questions", "--html has no page of --questions"),
        ("no package", "pip install -e '.[harness]'"),
    ],
)
def test_mistakes_are_told_in_one_line(name, words, answers):
    answer = answers[name]
    assert answer.status == 2
    assert words in answer.err
    assert answer.err.count("\n") == 1
