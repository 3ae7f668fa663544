import pathlib
import subprocess
import sys

import pytest

MODULE = "launch.tokenize"
ROOT = pathlib.Path(__file__).resolve().parents[2]


def process(*arguments):
    """Runs launch.tokenize as a shell does; returns its status, output and errors."""
    program = [sys.executable, "-m", MODULE, *map(str, arguments)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def tokenized(call):
    """A function that runs it in this process; it returns the same."""
    return lambda *arguments: call(MODULE, [arguments])[0]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for k in range(30):
        (folder / f"{k}.txt").write_text("".join(f"line {k * i} is hexadecimal {k * i:x}\n" for i in range(60)))
    return folder


def test_tokenizes_reports_and_reuses(text, tokenized, tmp_path):
    arguments = (f"--input={text}", f"--output={tmp_path / 'd'}", "--vocab_size=300", "--validation=0.1")
    status, out, err = process(*arguments)
    assert (status, out.splitlines()[1]) == (0, "tokenizer: SentencePiece, 300 ids, end of document: 1")
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["split", "train", "validation"]
    assert "documents/s" in err
    assert "tokens/s" in err
    assert "bytes per token" in err
    assert tokenized(*arguments) == (0, out, "")
    status, out, err = tokenized(*arguments[:2], "--vocab_size=310", "--validation=0.1")
    assert (status, out) == (2, "")
    assert "tokenizer.vocab_size: 300 -> 310" in err
    # The tokenizer of one dataset for another.
    (tmp_path / "more.jsonl").write_text('{"body": "line 7 of more"}\n' * 40)
    arguments = (
        f"--input={tmp_path / 'more.jsonl'}",
        "--field=body",
        f"--output={tmp_path / 'e'}",
        "--validation=none",
    )
    status, out, err = tokenized(*arguments, f"--tokenizer={tmp_path / 'd'}")
    assert status == 0, err
    assert "300 ids" in out
    assert "validation" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--input, the text to tokenize, is missing"),
        (["--input=x"], "--output, the dataset folder to make, is missing"),
        (["--input=nothing.txt", "--output=OUT"], "no such text: 'nothing.txt'"),
        (["--input=TEXT", "--output=OUT", "--tokenizer=word"], "--tokenizer=word: expected sentencepiece, bytes"),
        (["--input=TEXT", "--output=OUT", "--tokenizer=bytes", "--vocab_size=9"], "--tokenizer=bytes has its own size"),
        (["--input=TEXT", "--output=OUT", "--tokenizer=Bytes(size=3)"], "Bytes has no field 'size'"),
        (["--input=TEXT", "--output=OUT", "--validation=most"], "--validation=most: expected a share"),
        (["--input=TEXT", "--output=OUT", "--validation=1.5"], "expected a share between 0 and 1, got 1.5"),
        (["--input=TEXT", "--output=OUT", "--workers=0"], "workers"),
        (["--inputs=TEXT"], "inputs"),
        (["TEXT"], "unexpected argument"),
    ],
)
def test_mistakes_are_named_without_a_traceback(arguments, message, text, tokenized, tmp_path):
    status, out, err = tokenized(*[a.replace("TEXT", str(text)).replace("OUT", str(tmp_path / "d")) for a in arguments])
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_advice_names_the_flags_of_this_command(tokenized, tmp_path):
    """The message does not name fields of a config, which this command does not have; its advice works."""
    (tmp_path / "one.txt").write_text("one text, of which no whole file can be held out\n" * 40)
    arguments = (f"--input={tmp_path / 'one.txt'}", f"--output={tmp_path / 'd'}", "--tokenizer=bytes")
    status, _, err = tokenized(*arguments)
    assert status == 2
    assert "error: --validation: whole documents cannot be held out: the documents, 1 in number, are one text" in err
    assert "hold out the end of each with '--validation=Tail(fraction=0.1)'" in err
    assert "data." not in err
    status, out, err = tokenized(*arguments, "--validation=Tail(fraction=0.1)")
    assert status == 0, err
    assert "validation" in out


def test_flags_become_options(tmp_path):
    program = """
import sys
from launch.tokenize import tokenizer_option as t, validation_option as v
print(t("sentencepiece", 500), t("Bytes", None), t("a.model", None), t("a/tokenizer.json", None), t(sys.argv[1], None))
print(t("A.MODEL", None).path, t("T.Json", None).path, type(t("T.Json", None)).__name__)
print(t("HuggingFace(path=t.json, end_of_document='</s>')", None))
print(v("0.2", "text"), v("none", "text"), v("Tail(fraction=0.3)", "text"), v(sys.argv[1], "body"))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "SentencePiece(vocab_size=500, split_digits=True) Bytes(end_of_document=True) SentencePieceFile(path='a.model', begin_of_document=None, vocab_size=None)"
        f" HuggingFace(path='a/tokenizer.json', end_of_document=None, begin_of_document=None, vocab_size=None) TokenizerOf(path={str(tmp_path)!r})",
        "A.MODEL T.Json HuggingFace",
        "HuggingFace(path='t.json', end_of_document='</s>', begin_of_document=None, vocab_size=None)",
        "HeldOutDocuments(fraction=0.2, seed=0, similarity=0.3, keep_generated=True) None Tail(fraction=0.3)"
        f" SeparateText(path={str(tmp_path)!r}, field='body')",
    ]
