import json
import math

import pytest

from train.evaluation.evaluate import MEASURES, Result
from train.evaluation.measures import LossSums, Tally
from train.evaluation.output.tables import result_table as table
from train.run.loading import load_run

MODULE = "launch.evaluate"


@pytest.fixture(scope="module")
def answers(call, tiny_run, tiny_text, tmp_path_factory):
    """The answers of one process to many calls, by name."""
    files = tmp_path_factory.mktemp("texts")
    (files / "empty.txt").touch()
    (files / "bad.txt").write_bytes(b"ab\xff")
    rows = [{"text": "the cat", "domain": "a"}, {"text": "a dog", "domain": "b"}, {"text": "old", "domain": "a"}]
    rows.append({"text": "a cat", "domain": "b"})
    (files / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = f"--run={tiny_run}"
    calls = {
        "validation": (run, "--json"),
        "table": (run,),
        "one": (run, f"--text={tiny_text}/0.txt", "--json"),
        "one table": (run, f"--text={tiny_text}/0.txt"),
        "two": (run, f"--text={tiny_text}/0.txt", f"{tiny_text}/1.txt", "--json"),
        "glob": (run, f"--text={tiny_text}/[01].txt", "--json", "--batch_size=3"),
        "folder": (run, f"--text={tiny_text}", "--json"),
        "stride": (run, f"--text={tiny_text}/0.txt", "--stride=1", "--json"),
        "window": (run, f"--text={tiny_text}/0.txt", "--window=4", "--json"),
        "step": (run, f"--text={tiny_text}/0.txt", "--checkpoint=10", "--json"),
        "no run": ("--json",),
        "nowhere": (f"--run={files}/nowhere",),
        "loose": (run, "x.txt"),
        "missing": (run, f"--text={files}/missing.txt"),
        "empty": (run, f"--text={files}/empty.txt"),
        "bad": (run, f"--text={files}/bad.txt"),
        "stride too long": (run, "--stride=17"),
        "stride 0": (run, "--stride=0"),
        "window too long": (run, "--window=33"),
        "checkpoint": (run, "--checkpoint=first"),
        "domains": (run, f"--text={files}/d.jsonl", "--details", f"--html={files}/page.html"),
        "pair": (run, f"--against={tiny_run}", "--against_checkpoint=10", f"--text={files}/d.jsonl", "--json"),
        "stream": (run, f"--text={files}/d.jsonl", "--stream", "--window=4", "--separator=_"),
        "lengths": (run, f"--text={tiny_text}/0.txt", "--lengths=0.5x,32"),
        "resumed": (run, f"--text={tiny_text}/0.txt", f"--results={files}/results.jsonl", "--json"),
        "short stream": (run, f"--text={files}/d.jsonl", "--stream", "--window=32"),
        "no field": (run, f"--text={files}/d.jsonl", "--domain_field=source"),
        "no such lengths": (run, f"--text={tiny_text}/0.txt", "--lengths=2x,long"),
        "no stream": (run, "--separator=x"),
        "no second": (run, "--against_checkpoint=10"),
        "second nowhere": (run, "--against=nowhere", f"--text={files}/d.jsonl"),
        "no table": (run, "--domain_field=source"),
    }
    return dict(zip(calls, call(MODULE, calls.values()), strict=True))


def result(answer):
    assert answer.status == 0, answer.err
    return json.loads(answer.out)


def test_counts_are_those_of_the_text(answers, tiny_text):
    texts = [path.read_bytes() for path in sorted(tiny_text.glob("*.txt"))]
    for name, chosen in (("one", texts[:1]), ("two", texts[:2]), ("glob", texts[:2]), ("folder", texts)):
        found = result(answers[name])
        size = sum(map(len, chosen))
        words = sum(len(text.decode().split()) for text in chosen)
        assert (found["documents"], found["tokens"], found["bytes"], found["words"]) == (len(chosen), size, size, words)
        assert found["documents_not_restored"] == 0


def test_measures_agree_with_one_another(answers):
    for name in ("validation", "one", "folder"):
        found = result(answers[name])
        nll = found["loss"] * found["tokens"]
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
        assert found["word_perplexity"] == pytest.approx(math.exp(nll / found["words"]))
        assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / found["bytes"])
        for measure in MEASURES:
            error = found[f"{measure}_standard_error"]
            assert error is None if found["documents"] == 1 else error > 0


def test_two_ways_to_name_the_same_files_agree(answers):
    two, glob = result(answers["two"]), result(answers["glob"])
    assert two["loss"] == pytest.approx(glob["loss"], rel=1e-6)


def test_the_validation_split_is_the_default(answers, tiny_run):
    found = result(answers["validation"])
    split = load_run(tiny_run).dataset().description["splits"]["validation"]
    assert found["text"] == "validation split"
    assert {name: found[name] for name in ("documents", "tokens", "bytes", "words")} == {
        name: split[name] for name in ("documents", "tokens", "bytes", "words")
    }
    assert (found["window"], found["stride"], found["step"]) == (16, 8, 20)


def test_window_stride_and_checkpoint_are_live(answers):
    base = result(answers["one"])
    assert result(answers["stride"])["stride"] == 1
    assert result(answers["window"])["window"] == 4
    assert result(answers["step"])["step"] == 10
    for name in ("stride", "window", "step"):
        assert result(answers[name])["loss"] != base["loss"], name


def test_the_table_is_for_people(answers):
    out, found = answers["table"].out, result(answers["validation"])
    lines = out.splitlines()
    assert "step 20, on validation split" in lines[0]
    for line, start in zip(lines[2:6], ("documents", "tokens", "words", "bytes"), strict=True):
        assert line.split() == [start, f"{found[start]:,}"]
    assert f"{found['bits_per_byte']:.4f}" in next(line for line in lines if "bits per byte" in line)
    assert "window 16 tokens, stride 8" in out
    assert "no standard error" in answers["one table"].out


def test_text_sets_have_domains_and_a_page(answers):
    out = answers["domains"].out
    for words in ("mean of the domains", "accuracy", "calibration error", "tokens before it"):
        assert words in out
    assert answers["domains"].status == 0, answers["domains"].err


def test_two_models_a_stream_and_lengths(answers):
    pair = result(answers["pair"])
    assert (pair["base"]["step"], pair["other"]["step"], pair["same_tokenizer"]) == (20, 10, True)
    assert pair["measures"]["loss"]["difference"]["n"] == 4
    assert "as transformers weighs" in answers["stream"].out
    assert [line.split()[:2] for line in answers["lengths"].out.splitlines()[-2:]] == [["8", "0.5"], ["32", "2"]]
    resumed, one = result(answers["resumed"]), result(answers["one"])
    assert resumed["loss"] == one["loss"]


def test_a_table_of_numbers_of_any_size_is_aligned():
    """A value too large for a float is shown as such beside its logarithm, and columns do not run together."""
    huge = 10**18
    tally = Tally(
        [LossSums(5.8e18, tokens=huge, bytes=3 * huge, words=10**15), LossSums(5.9e18, huge, 2 * huge, 10**15)]
    )
    result = Result(
        run="runs/a",
        step=1,
        tally=tally,
        measures=tally.measures(),
        window=8,
        stride=4,
        first_token="left out",
        left_out_tokens=2,
        left_out_bytes=3,
        documents_not_restored=1,
        seconds=1.0,
    )
    lines = table(result, "zh.txt").splitlines()
    counts, rows = lines[2:6], lines[7:13]
    assert len({len(line) for line in counts}) == 1
    assert [line.split() for line in counts][1] == ["tokens", "2,000,000,000,000,000,000"]
    assert {len(line.removesuffix("  nats")) for line in rows} == {len(rows[0])}
    assert len(rows[0]) < 80
    assert rows[3].split("  ")[1].strip() == "loss per word"
    assert rows[4].split() == ["perplexity", "per", "word", "not", "finite", "-"]
    assert "first tokens of documents, which nothing comes before, are not counted (2, of 3 bytes)" in lines[14]
    assert "WARNING: the tokenizer loses characters of 1 document, of which" in lines[15]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no run", "--run is missing"),
        ("nowhere", "no run folder"),
        ("loose", "name the text with --text=x.txt"),
        ("missing", "missing.txt"),
        ("empty", "empty.txt is empty"),
        ("bad", "bad.txt is not UTF-8 at byte 2"),
        ("stride too long", "from 1 to the window of 16 tokens, got 17"),
        ("stride 0", "--stride must be at least 1"),
        ("window too long", "from 1 to the model's context of 32 tokens, got 33"),
        ("checkpoint", "no checkpoint 'first'"),
        ("short stream", "do not fill a window of 32"),
        ("no field", "no field 'source'; it has 'text', 'domain'"),
        ("no such lengths", "'long' is no length"),
        ("no stream", "--separator has no effect without --stream"),
        ("no second", "--against_checkpoint has no effect without --against"),
        ("second nowhere", "error: nowhere is no run folder"),
        ("no table", "--domain_field is about the tables of --text"),
    ],
)
def test_mistakes_are_one_message_and_exit_2(answers, name, message):
    answer = answers[name]
    assert answer.status == 2, answer
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert not answer.out
