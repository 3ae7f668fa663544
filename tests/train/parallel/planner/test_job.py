import dataclasses

import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import Gated
from model.parameters.precision import Precision
from tests.train.parallel.planner.planner_jobs import experts, job, work
from train.data.config import Bytes, Data
from train.experiment import Experiment, Training
from train.optimizers.options import SGD, AdamW
from train.parallel.mesh import Mesh
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.job import Ways, check_job, job_of, ways_of
from train.parallel.planner.work import KEPT
from train.parallel.table import ActivationAxes, Sharding
from train.schedules import Constant

EXPERIMENT = Experiment(
    model=ModelConfig(
        vocab_size=256,
        context_length=128,
        num_layers=4,
        width=64,
        mixer=GroupedQuery(num_heads=4),
        ffn=Gated(width=128),
        precision=Precision(compute="bfloat16"),
        remat="full",
    ),
    data=Data(path="none", tokenizer=Bytes(), batch_size=64, sequence_length=64),
    training=Training(num_steps=10),
    optimizer=AdamW(),
    schedule=Constant(peak=1e-3),
    mesh=Mesh(fsdp=16, tensor=4),
)


def test_an_experiment_is_a_job():
    one = job_of(EXPERIMENT, parse_cluster("v5p:4x4x4"))
    assert one.ways == Ways(fsdp=16, tensor=4)
    assert (one.batch, one.microbatches, one.work.length, one.tokens) == (64, 1, 64, 4096)
    assert (one.parameter_bytes, one.gradient_bytes, one.compute_bytes, one.moments) == (4, 4, 2, 2)
    assert one.kept == frozenset()
    assert not one.stream_split


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"optimizer": SGD()}, "moments", 1),
        ({"training": Training(num_steps=10, gradient_accumulation=4)}, "microbatches", 4),
        ({"sharding": Sharding(activations=ActivationAxes(sequence=("tensor",)))}, "stream_split", True),
        ({"model": dataclasses.replace(EXPERIMENT.model, remat="none")}, "kept", frozenset(KEPT) | {"between"}),
        (
            {"model": dataclasses.replace(EXPERIMENT.model, precision=Precision(parameters="bfloat16"))},
            "parameter_bytes",
            2,
        ),
    ],
)
def test_its_options_are_read(change, field, value):
    one = job_of(dataclasses.replace(EXPERIMENT, **change), parse_cluster("v5p:4x4x4"))
    assert getattr(one, field) == value


def test_parts_of_a_sequence_run_in_splash_where_keys_are_gathered():
    ring = dataclasses.replace(EXPERIMENT, sharding=Sharding(activations=ActivationAxes(key_sequence=("context",))))
    for experiment, cluster, has_kernel in (
        (EXPERIMENT, "v5p:4x4x4", 1),
        (ring, "v5p:4x4x4", 0),
        (EXPERIMENT, "h100:8x8", 0),
    ):
        one = job_of(experiment, parse_cluster(cluster))
        assert one.context_kernel == bool(has_kernel)
        assert not one.attention_loops  # the sequence is whole
        assert dataclasses.replace(one, ways=Ways(context=2, fsdp=32)).attention_loops != one.context_kernel


def test_data_takes_the_devices_that_are_left():
    cluster = parse_cluster("v5p:4x4x4")
    assert ways_of({"data": None, "fsdp": 16}, cluster) == Ways(data=4, fsdp=16)
    assert ways_of({"data": None}, cluster) == Ways(data=64)


def test_two_devices_of_one_chip_count_once():
    cluster = parse_cluster("v7x:4x4x4")
    assert ways_of({"data": 1, "fsdp": 128}, cluster) == Ways(fsdp=64)
    assert ways_of({"data": None, "fsdp": 16, "tensor": 2}, cluster) == Ways(data=4, fsdp=8, tensor=2)


def test_a_mesh_of_another_number_of_devices_is_refused():
    with pytest.raises(UserError, match=r"fsdp=16 does not multiply to the 128 devices of v7x:4x4x4; for example"):
        ways_of({"data": 1, "fsdp": 16}, parse_cluster("v7x:4x4x4"))


@pytest.mark.parametrize(
    ("ways", "rows", "words"),
    [
        ({"fsdp": 32}, 1, ["fsdp=32 has 32 parts, and v5p:4x4x4 has 64 chips"]),
        ({"fsdp": 2, "tensor": 32}, 1, ["tensor=32 does not divide the 8 heads; 1, 2, 4, 8 would"]),
        ({"fsdp": 8, "stage": 8}, 1, ["stage=8 does not divide the 4 layers; 1, 2, 4 would"]),
        ({"fsdp": 4, "expert": 16}, 1, ["expert=16 does not divide the 8 experts; 1, 2, 4, 8 would"]),
    ],
)
def test_a_mesh_that_does_not_divide_the_job_is_refused(ways, rows, words):
    one = job("v5p:4x4x4", experts(), rows, ways=ways)
    with pytest.raises(UserError) as caught:
        check_job(one)
    for word in words:
        assert word in str(caught.value)


def test_a_batch_and_a_sequence_that_do_not_divide_are_refused():
    one = job("v5p:4x4x4", experts(), 1)
    with pytest.raises(UserError, match=r"data x fsdp x expert x micro-batches=64 does not divide the 96 sequences"):
        check_job(dataclasses.replace(one, batch=96))
    with pytest.raises(UserError, match=r"context=3 does not divide the 2,048 tokens of a sequence; 1, 2 would"):
        check_job(dataclasses.replace(job("v5p:3x1x1", experts(), 1, ways={"context": 3}), batch=3))


def test_experts_of_a_dense_model_and_slices_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="expert=8, and the model has no experts; leave the axis out"):
        check_job(job("v5p:2x2x2", work("llama-2-7b"), 1, ways={"expert": 8}))
    with pytest.raises(UserError, match="data=1 does not split over 2 slices; use a multiple"):
        check_job(job("v5p:2x2x2", work("llama-2-7b"), 1, slices=2, ways={"fsdp": 16}))


def test_a_job_that_fits_its_mesh_passes():
    check_job(job("v5p:4x4x4", experts(), 2, ways={"fsdp": 8, "tensor": 2, "expert": 4}))
    assert str(Ways(fsdp=8, tensor=2)) == "fsdp=8,tensor=2"
    assert str(Ways()) == "data=1"
