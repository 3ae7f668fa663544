"""Training in the stages of a pipeline computes what one device computes with the same micro-batches."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from model.errors import UserError
from model.options.assignments import override
from model.options.tree import check
from model.parameters.names import flatten
from tests.train.parallel.test_sharded_steps import MEGATRON, devices_of, on_one_device, train
from train import loop
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.mesh_choice import requested_mesh, run_mesh_or_fsdp
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding
from train.run.checks import check_mesh
from train.run.loading import load_params

RING = Sharding(activations=ActivationAxes(key_sequence=("context",)))
# Meshes, tables, micro-batches.
MESHES = {
    "two stages": (Mesh(data=1, stage=2), Sharding(), 4),
    "four stages": (Mesh(data=1, stage=4), Sharding(), 4),
    "chunks": (Mesh(data=1, stage=2), Sharding(chunks=2), 4),
    "data": (Mesh(data=2, stage=2), Sharding(), 2),
    "fsdp": (Mesh(data=1, stage=2, fsdp=2), Sharding(chunks=2), 4),
    "tensor": (Mesh(data=1, stage=2, tensor=2), Sharding(), 4),
    "megatron": (Mesh(data=1, stage=2, tensor=2), MEGATRON, 2),
    "context": (Mesh(data=1, stage=2, context=2), Sharding(), 4),
    "ring": (Mesh(data=1, stage=2, context=2), RING, 4),
    "mixture": (Mesh(data=1, stage=2, fsdp=2, tensor=2), Sharding(), 4),
}


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(
        model__vocab_size=64,
        model__num_layers=4,
        model__mixer__num_kv_heads=4,
        schedule__peak=3e-3,
        training__clip_norm=0.5,
        samples__prompts="()",
        optimizer__epsilon=1e-4,  # else Adam blows rounding up where a gradient is nearly 0
    )


def accumulated(experiment, parts):
    return override(experiment, f"training.gradient_accumulation={parts}")


def compare(experiment, mesh, table, parts):
    experiment = accumulated(experiment, parts)
    start, batches, expected_losses, expected = on_one_device(experiment)
    devices = make_mesh(mesh, devices_of(mesh))
    losses, params = train(dataclasses.replace(experiment, mesh=mesh, sharding=table), devices, start, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert len(set(expected_losses)) == 4
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)


# The others are swept: a compilation takes seconds.
REPRESENTATIVES = ("two stages",)


@pytest.mark.parametrize(
    "name", [name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.sweep) for name in MESHES]
)
def test_stages_equal_one_device(name, experiment):
    compare(experiment, *MESHES[name])


EXPERTS = """Experts(num_experts=4, top_k=2, expert=Gated(width=16, bias=True), router=SigmoidRouter(bias=True),
    dispatch={}, shared=Shared(ffn=Gated(width=16), gate=True),
    balance_loss=BalanceLoss(coefficient=0.1), router_z_loss=0.01, load_bias=LoadBias(rate=0.01))"""
NORMAL = "model.initialization=Normal(std=0.2)"
MECHANISMS = {
    "dropout": ["model.dropout=Dropout(embedding=0.2, attention=0.2, residual=0.2)"],
    "dropless experts": [NORMAL, "model.ffn=" + EXPERTS.format("Dropless()")],
    "experts with capacity": [NORMAL, "model.ffn=" + EXPERTS.format("Capacity(factor=1.0)")],
    "a pattern of two layers": [
        "model.num_layers=8",
        "model.exceptions=(Except(layers='1::2', mixer=GatedDelta(num_heads=4, num_key_heads=2, chunk=5)),)",
    ],
    "values of the first layer": ["model.mixer.value_residual=ValueResidual()"],
    "several streams": ["model.residual=HyperConnections(streams=2)"],
    "saved taps": ["model.remat=SaveOnly(taps=('query',))"],
    "whole layers again": ["model.remat=full"],
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("mesh", ["chunks", "data"])
def test_mechanisms_in_stages_equal_one_device(mesh, name, experiment):
    compare(functools.reduce(override, MECHANISMS[name], experiment), *MESHES[mesh])


EXPERT_MESHES = {
    "expert": (Mesh(data=1, stage=2, expert=2), Sharding(), 4),
    "expert and tensor": (Mesh(data=1, stage=2, expert=2, tensor=2), Sharding(chunks=2), 4),
    "data, fsdp, expert": (Mesh(data=1, stage=2, fsdp=2, expert=2), Sharding(), 2),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", EXPERT_MESHES)
def test_experts_in_stages_that_split_them_too(name, experiment):
    changes = [NORMAL, "model.ffn=" + EXPERTS.format("Dropless()")]
    compare(functools.reduce(override, changes, experiment), *EXPERT_MESHES[name])


def refused(experiment, *changes):
    """The error of a config."""
    with pytest.raises(UserError) as error:
        check(functools.reduce(override, changes, experiment))
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["mesh.stage=3"], "mesh.stage: 3 stages do not divide the 4 layers; 1, 2, 4 in all would"),
        (["sharding.chunks=4"], "mesh.stage: 2 stages x 4 chunks do not divide the 4 layers; 1, 2, 4 in all would"),
        (
            ["training.gradient_accumulation=1"],
            "training.gradient_accumulation: 1 micro-batches cannot be split over the 2 stages that they flow through; "
            "use 2, 4, 8",
        ),
        (
            ["mesh.stage=1", "sharding.chunks=2"],
            "sharding.chunks: 2 are of the stages of a pipeline, and mesh.stage is 1",
        ),
        (
            ["sharding.parameters.layer=()", "sharding.activations.batch=('data', 'fsdp')"],
            "mesh.stage: the sharding table of this config, of an earlier version maybe, splits nothing over stage, so "
            "that 2 devices would compute the same; take the table of today with --set 'sharding=Sharding()', or leave",
        ),
        (["sharding.chunks=0"], "sharding.chunks: must be at least 1, got 0"),
        (["samples.prompts=('a',)"], "samples.prompts: decoding does not run in stages"),
        (["model.scan_layers=False"], "model.scan_layers: 2 stages run layers in a scan"),
        (["model.multi_token=MultiToken()"], "model.multi_token: its modules follow the layers"),
        (
            ["model.per_layer_embedding=PerLayerEmbedding(width=8)"],
            "model.per_layer_embedding: its vectors would be sent",
        ),
        (
            ["model.exceptions=(Except(layers='0', ffn=MLP(width=8)),)"],
            "mesh.stage: 2 stages need layers that repeat one pattern, and this model has 2 groups "
            "(repeats x layers: 1 x 1, 3 x 1)",
        ),
        (
            ["model.exceptions=(Except(layers='::2', ffn=MLP(width=8)),)", "mesh.stage=4"],
            "mesh.stage: 4 stages do not divide the 2 repeats of 2 layers; 1, 2 in all would",
        ),
    ],
)
def test_what_does_not_run_in_stages_is_refused_by_name(changes, words, experiment):
    assert words in refused(experiment, "mesh.stage=2", "training.gradient_accumulation=4", *changes)


def test_batches_that_do_not_fill_micro_batches_are_refused_when_the_devices_are_known(experiment):
    """Eight rows in four micro-batches on a mesh that splits the rows of each of them four ways."""
    changes = ["mesh=Mesh(data=4, stage=2)", "training.gradient_accumulation=4"]
    with pytest.raises(UserError, match=r"8 sequences in 4 micro-batches cannot be split 4 ways .* a multiple of 16"):
        check_mesh(functools.reduce(override, changes, experiment))
    check_mesh(functools.reduce(override, [*changes, "data.batch_size=16"], experiment))


def test_commands_that_load_a_run_take_a_mesh_without_stages(experiment):
    """Unless one is given; then its layers have to fit."""
    choice = run_mesh_or_fsdp(experiment.model, Mesh(data=4, stage=2), Sharding(chunks=2), devices_then=8)
    assert choice.option == Mesh(fsdp=8)
    assert choice.note == "the run's mesh was stage=2,data=4 on 8 devices; taking --mesh=fsdp=8 for the 8 here"
    assert requested_mesh(experiment.model, Mesh(stage=2), Sharding()).layout.pipeline.stages == 2
    with pytest.raises(UserError, match=r"mesh.stage: 8 stages do not divide the 4 layers; 1, 2, 4"):
        requested_mesh(experiment.model, Mesh(stage=8), Sharding())


def test_the_table_of_an_earlier_run_does_not_know_every_axis(experiment):
    before = Sharding(parameters=ParameterAxes(layer=()), activations=ActivationAxes(batch=("data", "fsdp")))
    assert requested_mesh(experiment.model, Mesh(fsdp=2), before).table == before
    assert requested_mesh(experiment.model, Mesh(stage=2), before).table == Sharding()
    mended = functools.reduce(override, ["mesh.stage=2", "training.gradient_accumulation=4"], experiment)
    check(override(dataclasses.replace(mended, sharding=before), "sharding=Sharding()"))


@pytest.mark.sweep
def test_a_run_in_stages_is_continued_and_evaluated_without_them(tiny_experiment, tmp_path):
    """Its checkpoint, losses and validation losses are those of a run that never had stages."""
    sizes = {"training__num_steps": 4, "training__gradient_accumulation": 2, "evaluation__every": 2}
    plain = tiny_experiment(**sizes, checkpoints__every=2, samples__prompts="()", mesh=Mesh(data=2, fsdp=2, context=2))
    staged = dataclasses.replace(plain, mesh=Mesh(stage=2, data=2, fsdp=2))
    run_folder, other = tmp_path / "stages", tmp_path / "plain"
    quiet = {"say": lambda line: None}
    loop.train(staged, run_folder, hard_stop=2, **quiet)
    loop.train(plain, run_folder, **quiet)
    loop.train(plain, other, **quiet)
    got, expected = (flatten(load_params(run).params) for run in (run_folder, other))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").open()] for run in (run_folder, other)]
    for kind in ("train", "eval"):
        values = [[line["loss"] for line in part if line.get("kind") == kind] for part in lines]
        assert len(values[0]) >= 2
        np.testing.assert_allclose(*values, rtol=1e-5)
