"""Samples during training: they use the parameters to evaluate, and the step as the seed."""

import types

import jax
import pytest

from tests.tiers import representatives
from train.data.prepare.prepare import prepare
from train.data.shards.dataset import open_dataset
from train.generation.samples import draw_samples
from train.hooks.interface import StepInfo
from train.hooks.samples import SamplesHook
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import layout_of
from train.state import StateConfig, evaluation_params, init_state


@pytest.mark.parametrize("optimizer", representatives(["AdamW()", "ScheduleFreeAdamW()"], "ScheduleFreeAdamW()"))
def test_texts_are_those_of_the_evaluated_parameters_at_the_step(optimizer, tiny_experiment, tmp_path):
    experiment = tiny_experiment(optimizer=optimizer, samples__prompts=("the ", "a"), evaluation__every=7)
    dataset = open_dataset(prepare(experiment.data, tmp_path / "data"))
    layout = layout_of(make_mesh(Mesh(), jax.devices()[:1]), experiment.sharding)
    written = []
    metrics = types.SimpleNamespace(sample=lambda step, text: written.append((step, text)))
    session = types.SimpleNamespace(experiment=experiment, dataset=dataset, layout=layout, metrics=metrics)
    state = jax.jit(init_state, static_argnums=0)(StateConfig.of(experiment), 0)
    hook = SamplesHook(session)
    assert hook.every == 7
    for step in (7, 14, 7):
        hook(StepInfo(step=step, last=False, held=state, scalars={}))
    assert [step for step, _ in written] == [7, 7, 14, 14, 7, 7]
    assert written[:2] == written[4:]
    assert written[:2] != [(7, text) for _, text in written[2:4]]
    drawn = draw_samples(
        experiment,
        evaluation_params(experiment.optimizer, state),
        ("the ", "a"),
        tokenizer=dataset.tokenizer,
        seed=14,
        layout=layout,
    )
    assert written[2:4] == [(14, sample.text) for sample in drawn]
