"""Training in the stages of a pipeline computes what one device computes with the same micro-batches."""

import dataclasses
import functools

import numpy as np
import pytest

from model.options.assignments import override
from tests.train.parallel.test_sharded_steps import MEGATRON, devices_of, on_one_device, train
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding

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
        optimizer__epsilon=1e-4,
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


@pytest.mark.parametrize("name", MESHES)
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


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("mesh", ["chunks", "data"])
def test_mechanisms_in_stages_equal_one_device(mesh, name, experiment):
    compare(functools.reduce(override, MECHANISMS[name], experiment), *MESHES[mesh])
