"""Evaluations of further texts beside that of the validation split."""

import dataclasses
import json
import math
import re
import shutil

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.transformer import forward
from tests.tiers import SWEEP
from train.data.batches.rows import FIELDS
from train.data.config import SeparateText
from train.data.prepare.prepare import prepare
from train.evaluation.named_evaluations import NamedEvaluation
from train.loop import train
from train.report import summary, write_report
from train.run.loading import load_params, load_run
from train.run.metrics import read_metrics, read_samples, read_statistics
from train.statistics import Statistics
from train.terminal.formatting import format_number


def silent(line):
    pass


@pytest.fixture(scope="module")
def texts(tmp_path_factory, tiny_experiment):
    """A text of digits, the validation text of the experiment, and a dataset of the digits."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "digits.txt").write_text("".join(f"{i * i}\n" for i in range(300)))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"body": f"the cat sees {i}."}) + "\n" for i in range(40)))
    data = tiny_experiment(data__path=str(folder / "digits.txt")).data
    prepare(data, folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def run(texts, tiny_experiment, tmp_path_factory):
    """A run with three further texts, each at steps of its own; the first session ends at step 7."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = (
        NamedEvaluation(name="digits", path=str(texts / "digits.txt"), every=4),
        NamedEvaluation(name="rows", path=str(texts / "rows.jsonl"), field="body", every=5, max_batches=1),
        NamedEvaluation(name="tail-of-digits", path=str(texts / "dataset"), every=10),
        NamedEvaluation(name="short", sequence_length=4, every=10),
    )
    experiment = tiny_experiment(evaluations=options, training__num_steps=10, evaluation__every=5, checkpoints__every=5)
    train(experiment, folder, hard_stop=7, say=silent)
    said = []
    train(experiment, folder, say=said.append)
    return experiment, folder, said


def of(run, name=None):
    lines = [line for line in read_metrics(run) if line["kind"] == "eval"]
    return {line["step"]: line for line in lines if line.get("name") == name}


def test_each_is_evaluated_at_its_own_steps_and_at_the_last(run):
    _, folder, said = run
    assert list(of(folder)) == [5, 10]
    assert list(of(folder, "digits")) == [4, 8, 10]
    assert list(of(folder, "rows")) == [5, 10]
    assert list(of(folder, "tail-of-digits")) == [10]
    order = [line.get("name") for line in read_metrics(folder) if line["kind"] == "eval" and line["step"] == 10]
    assert order == [None, "digits", "rows", "tail-of-digits", "short"]
    assert any(re.fullmatch(r"step 10: digits loss \d+\.\d+, \d+\.\d+ bits per byte", line) for line in said)


def test_windows_of_another_length_measure_the_validation_split(run):
    """Against the mean over all targets of the windows of 4 tokens that the pipeline cuts."""
    _, folder, _ = run
    loaded = load_run(str(folder))
    data = dataclasses.replace(loaded.experiment.data, sequence_length=4)
    batches = list(data.evaluation_batches(loaded.dataset(), "validation", None, range(data.batch_size)))
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in FIELDS}
    documents = {"positions_BT": rows["positions"], "segment_ids_BT": rows["segment_ids"]}
    logits_BTV = forward(loaded.experiment.model, loaded.params, rows["tokens"], **documents).logits_BTV
    nll_BT = -np.take_along_axis(jax.nn.log_softmax(logits_BTV), rows["targets"][..., None], -1)[..., 0]
    assert nll_BT.shape[1] == 4
    assert math.isclose(of(folder, "short")[10]["loss"], np.average(nll_BT, weights=rows["weights"]), rel_tol=1e-5)


def test_the_same_bytes_without_an_interruption(run, tmp_path):
    experiment, folder, _ = run
    train(experiment, tmp_path / "whole", say=silent)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_a_number_is_that_of_the_text_as_a_validation_text(run, texts, tiny_experiment, tmp_path):
    """The same training with the digits held out: the further text is now the validation split."""
    _, folder, _ = run
    held = tiny_experiment(
        data__validation=SeparateText(path=str(texts / "digits.txt")), training__num_steps=10, samples__prompts=()
    )
    train(held, tmp_path / "run", say=silent)
    assert set(of(tmp_path / "run")[10]) == set(of(folder, "digits")[10]) - {"name"}
    # The training text differs by the tail that is not held out, so only sizes are equal.
    assert of(folder, "digits")[10]["loss"] > 1.5 * of(folder)[10]["loss"]
    assert math.isclose(of(folder, "digits")[10]["perplexity"], math.exp(of(folder, "digits")[10]["loss"]))


def test_the_validation_split_under_another_name_has_its_numbers(run, tiny_experiment, tmp_path):
    _, folder, _ = run
    again = NamedEvaluation(name="again", path=str(folder / "data"), every=5)
    first = NamedEvaluation(name="first", path=str(folder / "data"), every=5, max_batches=1)
    options = {"evaluations": (again, first), "evaluation__every": 5}
    experiment = tiny_experiment(training__num_steps=10, samples__prompts=(), **options)
    train(experiment, tmp_path, say=silent)
    for step, line in of(tmp_path).items():
        other = of(tmp_path, "again")[step]
        assert {name: value for name, value in other.items() if name != "name"} == line
        assert of(tmp_path, "first")[step]["loss"] != line["loss"]  # of one batch alone


def test_the_best_is_that_of_the_validation_split(run, texts, tiny_experiment, tmp_path, monkeypatch):
    """A further text gets worse at every step: no checkpoint is kept or dropped for it."""
    from train.checkpoints.store import CheckpointStore
    from train.evaluation.validation import SplitEvaluation

    measure, calls = SplitEvaluation.__call__, []

    def falling(self, state):
        calls.append(int(state.step))
        validation = calls.count(int(state.step)) == 1
        return measure(self, state) | {"loss": 10.0 - int(state.step) if validation else 1.0 + float(state.step)}

    monkeypatch.setattr(SplitEvaluation, "__call__", falling)
    options = (NamedEvaluation(name="digits", path=str(texts / "digits.txt"), every=2),)
    experiment = tiny_experiment(
        evaluations=options, training__num_steps=6, evaluation__every=2, checkpoints__every=6, samples__prompts=()
    )
    train(experiment, tmp_path, say=silent)
    with CheckpointStore(tmp_path, experiment.checkpoints, silent, read_only=True) as store:
        assert store.best_step() == 6


def test_the_report_shows_them(run):
    _, folder, _ = run
    text = summary(folder)
    last = of(folder, "digits")[10]
    loss, bits = (re.escape(format_number(last[name])) for name in ("loss", "bits_per_byte"))
    assert re.search(rf"loss of digits +{loss}  step 10; {bits} bits per byte", text), text
    page = write_report(folder).read_text()
    assert "Loss of tail-of-digits, nats per token" in page
    assert re.search(r"<th[^>]*>text</th>", page)
    table = page[page.index("During training") :]
    assert table.index("digits") < table.index("tail-of-digits")
    assert len(re.findall(r'class="best"', page)) <= 1


def test_text_that_is_missing_is_said_before_anything_is_done(tiny_experiment, tmp_path):
    options = (NamedEvaluation(name="gone", path=str(tmp_path / "gone.txt")),)
    with pytest.raises(UserError, match=r"evaluations.0.path \(gone\): no such text: .*gone.txt"):
        train(tiny_experiment(evaluations=options), tmp_path / "run", say=silent)
    assert not (tmp_path / "run").exists()


def test_a_prepared_text_is_needed_no_more(run, texts, tmp_path):
    experiment, folder, _ = run
    copied = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copied / "checkpoints" / "10")
    (texts / "digits.txt").rename(texts / "elsewhere.txt")
    try:
        assert train(experiment, copied, say=silent).state == "finished"
    finally:
        (texts / "elsewhere.txt").rename(texts / "digits.txt")
    assert (copied / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_a_dataset_of_another_tokenizer_is_refused(texts, tiny_experiment, tmp_path):
    other = tiny_experiment(data__tokenizer="Bytes(end_of_document=False)", model__vocab_size=256)
    prepare(other.data, tmp_path / "dataset")
    options = (NamedEvaluation(name="other", path=str(tmp_path / "dataset")),)
    with pytest.raises(UserError, match="evaluations: other: .*dataset was made with another tokenizer"):
        train(tiny_experiment(evaluations=options), tmp_path / "run", say=silent)


@SWEEP
def test_measurements_may_begin_and_end_in_the_middle_of_a_run(texts, tiny_experiment, tmp_path):
    """A further text, statistics and samples are turned on after step 4: the training and its lines stay the same."""
    plain = tiny_experiment(training__num_steps=8, checkpoints__every=4, evaluation__every=4, samples__prompts=())
    more = dataclasses.replace(
        plain,
        evaluations=(NamedEvaluation(name="digits", path=str(texts / "digits.txt"), every=3),),
        statistics=Statistics(every=3),
        samples=dataclasses.replace(plain.samples, prompts=("a",)),
    )
    train(plain, tmp_path / "plain", say=silent)
    train(plain, tmp_path / "more", hard_stop=4, say=silent)
    assert train(more, tmp_path / "more", say=silent).state == "finished"
    assert list(of(tmp_path / "more", "digits")) == [6, 8]
    assert sorted({line["step"] for line in read_statistics(tmp_path / "more")}) == [6, 8]
    assert [step for step, _ in read_samples(tmp_path / "more")] == [8]
    assert train(plain, tmp_path / "more", say=silent).state == "finished"
    lines = [line for line in read_metrics(tmp_path / "more") if "name" not in line and line["kind"] != "statistics"]
    assert lines == read_metrics(tmp_path / "plain")
    one, other = (load_params(tmp_path / name).params for name in ("plain", "more"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_tokens_of_another_text_of_that_name_are_not_measured(texts, tiny_experiment, tmp_path):
    """The evaluation left the config in between, so the config says nothing of its text; its folder does."""
    plain = tiny_experiment(training__num_steps=6, samples__prompts=())
    digits = NamedEvaluation(name="one", path=str(texts / "digits.txt"))
    other = dataclasses.replace(digits, path=str(texts / "rows.jsonl"), field="body")
    for step, options in ((1, (digits,)), (2, ()), (3, (digits,)), (4, ())):
        train(dataclasses.replace(plain, evaluations=options), tmp_path / "run", hard_stop=step, say=silent)
    with pytest.raises(UserError, match=r"evaluations: one: .* was made from .*digits.txt, not from .*rows.jsonl"):
        train(dataclasses.replace(plain, evaluations=(other,)), tmp_path / "run", say=silent)
