"""A run on text that its tokenizer loses some of says so beside every number of bits per byte."""

import dataclasses
import shutil

import pytest

from tests.train.data.tokenizers.test_sentencepieces import train_sentencepiece
from train.data import SentencePieceFile, Tail
from train.files.files import read_json, write_json
from train.loop import train
from train.report import summary, write_report
from train.run.metrics import read_metrics

# Line ends become spaces, of two spaces there is one, and the last is none: the six lines held out have 42 spaces and
# six line ends, of which 41 spaces come back.
TEXT = "the  list of a value returns self\n" * 60
LOST = "the tokenizer loses 7 bytes (3.43%), in 1 document"


@pytest.fixture(scope="module")
def lossy_run(tiny_experiment, tmp_path_factory):
    """A run of one step, and the lines that it said."""
    folder = tmp_path_factory.mktemp("lossy")
    tokenizer, _ = train_sentencepiece(folder / "t.model", remove_extra_whitespaces=True)
    (folder / "text.txt").write_text(TEXT)
    experiment = tiny_experiment(
        model__vocab_size=tokenizer.vocab_size,
        training__num_steps=1,
        evaluation__every=1,
        samples__prompts=(),
        schedule__warmup_steps=0,
    )
    option = SentencePieceFile(path=str(folder / "t.model"))
    data = dataclasses.replace(experiment.data, path=str(folder / "text.txt"), tokenizer=option, validation=Tail())
    lines = []
    train(dataclasses.replace(experiment, data=data), folder / "run", say=lines.append)
    return folder / "run", lines


def test_training_says_it(lossy_run):
    run, lines = lossy_run
    warning = f"WARNING: validation text: {LOST}; bits per byte are not those of the original text"
    assert warning in lines
    (evaluated,) = [line for line in lines if "bits per byte (" in line]
    assert evaluated.startswith("step 1: validation loss")
    assert evaluated.endswith(f"bits per byte ({LOST})")
    (values,) = [line for line in read_metrics(run) if line["kind"] == "eval"]
    assert values["bytes_not_restored"] == 7


def page_of(run):
    """The report without what it says of the code, whose changes may hold any words."""
    before = (run / "environment.json").read_bytes()
    (run / "environment.json").unlink()
    page = write_report(run).read_text()
    (run / "environment.json").write_bytes(before)
    return page


def test_the_summary_and_the_report_say_it(lossy_run):
    run, _ = lossy_run
    (line,) = [line for line in summary(run).splitlines() if "bits per byte" in line]
    assert line.endswith(f"step 1; {LOST}")
    page = page_of(run)
    assert page.count(LOST) == 1
    assert "bytes not restored" in page


def test_what_was_not_counted_is_unknown(lossy_run):
    run, _ = lossy_run
    path = run / "data" / "dataset.json"
    before = read_json(path)
    description = read_json(path)
    del description["splits"]["validation"]["not_restored"]
    write_json(path, description)
    assert "bytes that the tokenizer loses: unknown" in summary(run)
    write_json(path, before)


def test_a_run_that_loses_nothing_says_nothing(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert "the tokenizer" not in summary(run) + page_of(run)
    assert all("bytes_not_restored" not in line for line in read_metrics(run))
