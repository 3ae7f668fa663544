"""The evaluation of induction heads during a run: its lines, its curves in the report, its refusals."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.layout import ONE_DEVICE
from model.transformer import forward
from tests.train.inspection.models import FAMILIES
from train.evaluation.named_evaluations import InductionEvaluation
from train.hooks.induction import InductionHook
from train.loop import train
from train.report.optional_parts import head_curves
from train.report.run import load
from train.run.loading import load_run
from train.run.metrics import read_metrics

OPTION = InductionEvaluation(name="heads", every=2, num_sequences=2, late=12, early=3)


@pytest.fixture(scope="module")
def run(tiny_experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    said = []
    train(tiny_experiment(evaluations=(OPTION,), training__num_steps=4), folder, say=said.append)
    return folder, said


def test_lines_have_the_scores_of_the_best_heads_and_the_losses_of_two_tokens(run):
    folder, said = run
    lines = [line for line in read_metrics(folder) if line.get("name") == "heads"]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"repeated", "previous_token", "induction", "induction_layer", "copying_offset", "in_context"} <= set(
        lines[0]
    )
    assert any("step 4: heads: best induction score 0." in line for line in said)
    loaded = load_run(folder)
    experiment = loaded.experiment
    late, early = [], []
    for batch in experiment.data.evaluation_batches(loaded.dataset(), "validation", None, range(8)):
        output = forward(experiment.model, loaded.params, batch["tokens"], segment_ids_BT=batch["segment_ids"])
        x = np.asarray(output.logits_BTV, np.float64)
        nll = np.log(np.exp(x).sum(-1)) - np.take_along_axis(x, batch["targets"][..., None], -1)[..., 0]
        places = np.broadcast_to(np.arange(nll.shape[1]), nll.shape)
        counted = batch["weights"] > 0
        if not experiment.data.cross_document_attention:
            places = batch["positions"]
        late += nll[(places == 11) & counted].tolist()
        early += nll[(places == 2) & counted].tolist()
    assert lines[-1]["in_context"] == pytest.approx(np.mean(late) - np.mean(early), abs=1e-4)
    assert lines[-1]["late_loss"] == pytest.approx(np.mean(late), abs=1e-4)


def test_the_report_has_their_curves(run):
    curves = {name: series for name, _, series in head_curves(load(run[0]))}
    assert list(curves) == ["repeated-heads", "copying-heads", "previous_token-heads", "in_context-heads"]
    assert all(series.steps.tolist() == [2, 4] for series in curves.values())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"every": 0}, "evaluations.0.every: must be at least 1"),
        ({"late": 3}, "evaluations.0.late: must be above early=3"),
        ({"late": 17}, "evaluations.0.late: 17 is beyond the windows of data.sequence_length=16"),
        ({"name": "validation"}, "'validation' is the split"),
    ],
)
def test_refused(fields, words, tiny_experiment):
    values = {"name": "heads", "late": 12, "early": 3} | fields
    with pytest.raises(UserError, match=words):
        tiny_experiment(evaluations=(InductionEvaluation(**values),))


def test_a_model_that_reads_a_source_is_refused_by_name():
    parts = {"mixer": GroupedQuery(num_heads=2), "ffn": MLP(width=8)}
    encoder = Encoder(num_layers=1, context_length=8, **parts, cross=CrossAttention(num_heads=2))
    model = dataclasses.replace(FAMILIES["llama"], encoder=encoder)
    session = SimpleNamespace(experiment=SimpleNamespace(model=model), layout=ONE_DEVICE, folder="runs/both")
    with pytest.raises(UserError, match=r"evaluations \(heads\): the model of runs/both has an encoder"):
        InductionHook(session, OPTION)
    piped = SimpleNamespace(
        experiment=SimpleNamespace(model=FAMILIES["llama"]), layout=SimpleNamespace(pipeline=object()), folder="x"
    )
    with pytest.raises(UserError, match=r"evaluations \(heads\): the mesh of x runs its layers as stages"):
        InductionHook(piped, OPTION)
