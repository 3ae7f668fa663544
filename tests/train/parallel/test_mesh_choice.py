"""The mesh on which a run is loaded: the requested mesh, its own, or FSDP over all eight devices."""

import dataclasses

import jax
import pytest

from model.errors import UserError
from train.parallel.mesh import Mesh
from train.parallel.mesh_choice import fsdp_mesh, model_shardings, requested_mesh, run_mesh_or_fsdp
from train.parallel.table import ParameterAxes, Sharding


@pytest.fixture
def model(tiny_experiment):
    return tiny_experiment().model


def shape(choice):
    return Mesh(**choice.mesh.shape)


@pytest.mark.parametrize(
    ("own", "then", "expected"),
    [
        (Mesh(data=2, fsdp=4), 8, Mesh(data=2, fsdp=4)),
        (Mesh(data=2, fsdp=4), None, Mesh(data=2, fsdp=4)),
        (Mesh(data=8), 8, Mesh(data=8)),
        (Mesh(), 8, Mesh(data=8)),  # so it was trained: full copies fitted, and their optimizer
        (Mesh(fsdp=4), 8, Mesh(data=2, fsdp=4)),
    ],
)
def test_a_runs_own_mesh_is_taken_where_it_fits(model, own, then, expected):
    choice = run_mesh_or_fsdp(model, own, Sharding(), then)
    assert shape(choice) == expected
    assert choice.note is None


@pytest.mark.parametrize(
    ("own", "then", "was"),
    [
        (Mesh(), 1, "data=1 on 1 device"),
        (Mesh(), None, "data=1"),
        (Mesh(data=4), 4, "data=4 on 4 devices"),
        (Mesh(fsdp=16), 16, "fsdp=16 on 16 devices"),
        (Mesh(fsdp=2), 2, "fsdp=2 on 2 devices"),  # would fit as four copies
    ],
)
def test_another_number_of_devices_is_fsdp_over_all_and_said(model, own, then, was):
    choice = run_mesh_or_fsdp(model, own, Sharding(), then)
    assert shape(choice) == Mesh(data=1, fsdp=8)
    assert choice.note == f"the run's mesh was {was}; taking --mesh=fsdp=8 for the 8 here"
    for spec, leaf in zip(*bytes_held(model, choice), strict=True):
        assert spec * 8 == leaf


def bytes_held(model, choice):
    """The sizes of the shards of the parameters that have a model width, and their whole sizes."""
    from model.transformer import abstract_params

    leaves = jax.tree.leaves(abstract_params(model))
    places = jax.tree.leaves(model_shardings(model, choice.mesh, choice.table))
    size = lambda shape: int(jax.numpy.prod(jax.numpy.array(shape)))  # noqa: E731
    return [size(p.shard_shape(x.shape)) for x, p in zip(leaves, places, strict=True)], [size(x.shape) for x in leaves]


def test_what_eight_ways_do_not_divide_is_split_the_most_ways_that_do(tiny_experiment):
    model = tiny_experiment(
        model__width=60, model__mixer="GroupedQuery(num_heads=3, num_kv_heads=3, head_dim=20)"
    ).model
    choice = fsdp_mesh(model, Sharding())
    assert shape(choice) == Mesh(data=2, fsdp=4)
    assert choice.note == "each parameter is held 2 times, since fsdp=8 does not divide embed of 60"
    said = run_mesh_or_fsdp(model, Mesh(), Sharding(), 1).note
    assert said.endswith(f"taking --mesh=data=2,fsdp=4 for the 8 here; {choice.note}")


def test_a_table_without_fsdp_gives_way_to_one_that_splits_all(model):
    table = Sharding(parameters=ParameterAxes(embed=()))
    assert fsdp_mesh(model, table).table == Sharding()
    kept = Sharding(parameters=ParameterAxes(embed=(), ffn=("fsdp",)))
    assert fsdp_mesh(model, kept).table == kept


def test_a_mesh_that_is_asked_for_keeps_whole_what_tensor_does_not_divide(model):
    """A vocabulary of 257 bytes and marks, and the two key heads if they would be split four ways."""
    choice = requested_mesh(model, Mesh(fsdp=4, tensor=2), Sharding())
    assert shape(choice) == Mesh(data=1, fsdp=4, tensor=2)
    assert choice.table.parameters == ParameterAxes(vocab=())
    assert choice.note == "tensor=2 does not divide vocab of 257: not split over tensor"
    four = requested_mesh(model, Mesh(tensor=4), Sharding())
    assert four.table.parameters == ParameterAxes(vocab=(), kv_heads=())
    assert "kv_heads of 2" in four.note
    even = dataclasses.replace(model, vocab_size=256)
    assert requested_mesh(even, Mesh(tensor=2), Sharding()).note is None


def test_a_mesh_that_cannot_be_is_refused(model, tiny_experiment):
    with pytest.raises(UserError, match="does not multiply to the 8 devices"):
        requested_mesh(model, Mesh(fsdp=3), Sharding())
    narrow = tiny_experiment(model__width=60, model__mixer="GroupedQuery(num_heads=3, head_dim=20)").model
    with pytest.raises(UserError, match="embed axis of 60 cannot be split 8 ways"):
        requested_mesh(narrow, Mesh(fsdp=8), Sharding())
