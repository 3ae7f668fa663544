"""Two runs on the same documents: each as launch.evaluate measures it, paired by document."""

import dataclasses
import json
import math
import shutil
import types

import numpy as np
import pytest

from model.errors import UserError
from train import experiment as experiments
from train.data import Bytes, Data, SentencePiece, Tail, prepare
from train.data.shards.dataset import dataset_of_run
from train.evaluation.evaluate import evaluate
from train.evaluation.measures import LossSums, Tally
from train.lab.comparison import evaluation
from train.lab.comparison.evaluation import paired_evaluation, recorded_evaluations
from train.lab.statistics.documents import paired_bootstrap
from train.report.run import load
from train.run.loading import load_run


@pytest.fixture(scope="module")
def earlier(tiny_run, tmp_path_factory):
    """The run as it was at its checkpoint of step 10."""
    copy = tmp_path_factory.mktemp("earlier") / "run"
    shutil.copytree(tiny_run, copy, ignore=lambda folder, names: {"20"} & set(names))
    return copy


def test_each_is_measured_as_alone_and_the_interval_is_that_of_its_documents(tiny_run, earlier):
    found = paired_evaluation(tiny_run, earlier, same_tokenizer=True)
    assert (found.steps, found.documents, found.notes) == ((20, 10), (8, 8), [])
    assert found.text == f"the validation split of {tiny_run}"
    alone = [evaluate(load_run(run)) for run in (tiny_run, earlier)]
    loss, bits = found.measures
    for measure in (loss, bits):
        assert [measure.a, measure.b] == [one.measures[measure.measure].value for one in alone]
        assert measure.difference.mean == pytest.approx(measure.b - measure.a)
        assert measure.difference.low < measure.b - measure.a < measure.difference.high
    tallies = [one.tally for one in alone]
    columns = [(tally.column("nll") / math.log(2), tally.column("bytes")) for tally in tallies]
    assert bits.difference == paired_bootstrap(*columns[0], *columns[1])
    assert bits.difference.low > 0  # the earlier checkpoint is worse


def run_with(tokenizer, vocab_size, text, experiment, folder):
    """A folder with a config and a dataset, and no checkpoint."""
    data = Data(path=str(text), tokenizer=tokenizer, validation=Tail(fraction=0.2), batch_size=2, sequence_length=16)
    prepare(data, folder / "data")
    experiments.save(dataclasses.replace(experiment, data=data), folder)
    (folder / "data.json").write_text(json.dumps({"dataset": str(folder / "data")}))
    return folder


def test_runs_of_different_tokenizers_get_the_same_text_and_are_compared_by_bytes(
    tiny_experiment, tiny_text, tmp_path, monkeypatch
):
    a = run_with(Bytes(), 257, tiny_text, tiny_experiment(), tmp_path / "a")
    b = run_with(SentencePiece(vocab_size=300), 300, tiny_text, tiny_experiment(model__vocab_size=300), tmp_path / "b")
    texts = []

    def fake_evaluate(run, documents, on_progress):
        tokenizer = dataset_of_run(run).tokenizer
        texts.append([tokenizer.decode(document.ids) for document in documents])
        entries = [LossSums(2.0 * document.num_bytes, len(document.ids), document.num_bytes) for document in documents]
        tally = Tally(entries)
        return types.SimpleNamespace(tally=tally, measures=tally.measures(), window=16, stride=8, step=1)

    with pytest.raises(UserError, match="a has no checkpoint"):
        paired_evaluation(a, b, same_tokenizer=False)
    monkeypatch.setattr(evaluation, "latest_step", lambda run: 1)
    monkeypatch.setattr(evaluation, "load_run", lambda run: run)
    monkeypatch.setattr(evaluation, "_evaluate", fake_evaluate)
    found = paired_evaluation(a, b, same_tokenizer=False, held_out_by_both=False, max_documents=5)
    assert texts[0] == texts[1]
    assert found.documents == (5, 8)
    (measure,) = found.measures
    assert (measure.measure, measure.a) == ("bits_per_byte", pytest.approx(2 / math.log(2)))
    assert any("may have been trained on this text" in note for note in found.notes)
    single = tmp_path / "one.txt"
    single.write_text("a single document of a few words\n")
    found = paired_evaluation(a, b, [str(single)], same_tokenizer=False)
    assert found.measures[0].difference is None
    assert "no interval: expected at least 4 documents" in found.notes[0]
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        paired_evaluation(a, b, ["nowhere.txt"], same_tokenizer=False)


def test_the_last_lines_of_the_files_are_compared_never_the_best(tiny_run):
    a, b = load(tiny_run), load(tiny_run)
    b.evaluations.append({"kind": "eval", "step": 30, "loss": 9.0, "perplexity": np.e**9, "bits_per_byte": 12.0})
    b.named_evaluations.append({"kind": "eval", "step": 30, "loss": 9.0, "name": "alone"})
    found = recorded_evaluations(a, b, True, per_token=True)
    assert [item.measure for item in found] == ["loss", "perplexity", "bits_per_byte"]
    assert (found[0].b, found[0].step_a, found[0].step_b, found[0].same_text) == (9.0, 20, 30, True)
    (only,) = recorded_evaluations(a, b, None, per_token=False)
    assert (only.measure, only.b, only.same_text) == ("bits_per_byte", 12.0, None)


def test_named_texts_are_the_same_if_the_configs_say_so(tiny_run):
    a, b = load(tiny_run), load(tiny_run)
    for run, path, every in ((a, "x.txt", 1), (b, "x.txt", 2)):
        run.config["evaluations"] = [{"name": "code", "path": path, "every": every}]
        run.named_evaluations.append({"kind": "eval", "step": 20, "loss": 1.0, "name": "code"})
    assert recorded_evaluations(a, b, True, per_token=True)[-1].same_text is True
    b.config["evaluations"][0]["path"] = "y.txt"
    assert recorded_evaluations(a, b, True, per_token=True)[-1].same_text is False
