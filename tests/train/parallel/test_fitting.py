"""The mesh on which a run is loaded: the requested mesh, its own, or FSDP over all eight devices."""

import dataclasses

import jax
import pytest

from model.errors import UserError
from train.parallel.fitting import asked_for, fsdp, own_or_fsdp, placements
from train.parallel.mesh import Mesh
from train.parallel.table import ParameterAxes, Sharding


@pytest.fixture
def model(tiny_experiment):
    return tiny_experiment().model


def shape(fitted):
    return tuple(fitted.mesh.shape.values())


@pytest.mark.parametrize(
    ("own", "then", "expected"),
    [
        (Mesh(data=2, fsdp=4), 8, (2, 4, 1)),
        (Mesh(data=2, fsdp=4), None, (2, 4, 1)),
        (Mesh(data=8), 8, (8, 1, 1)),
        (Mesh(), 8, (8, 1, 1)),  # so it was trained: full copies fitted, and their optimizer
        (Mesh(fsdp=4), 8, (2, 4, 1)),
    ],
)
def test_a_runs_own_mesh_is_taken_where_it_fits(model, own, then, expected):
    fitted = own_or_fsdp(model, own, Sharding(), then)
    assert shape(fitted) == expected
    assert fitted.note is None


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
    fitted = own_or_fsdp(model, own, Sharding(), then)
    assert shape(fitted) == (1, 8, 1)
    assert fitted.note == f"the run's mesh was {was}; taking --mesh=fsdp=8 for the 8 here"
    for spec, leaf in zip(*bytes_held(model, fitted), strict=True):
        assert spec * 8 == leaf


def bytes_held(model, fitted):
    """The sizes of the shards of the parameters that have a model width, and their whole sizes."""
    from model.transformer import abstract_params

    leaves = jax.tree.leaves(abstract_params(model))
    places = jax.tree.leaves(placements(model, fitted.mesh, fitted.table))
    size = lambda shape: int(jax.numpy.prod(jax.numpy.array(shape)))  # noqa: E731
    return [size(p.shard_shape(x.shape)) for x, p in zip(leaves, places, strict=True)], [size(x.shape) for x in leaves]


def test_what_eight_ways_do_not_divide_is_split_the_most_ways_that_do(tiny_experiment):
    model = tiny_experiment(
        model__width=60, model__mixer="GroupedQuery(num_heads=3, num_kv_heads=3, head_dim=20)"
    ).model
    fitted = fsdp(model, Sharding())
    assert shape(fitted) == (2, 4, 1)
    assert fitted.note == "each parameter is held 2 times, since fsdp=8 does not divide embed of 60"
    said = own_or_fsdp(model, Mesh(), Sharding(), 1).note
    assert said.endswith(f"taking --mesh=data=2,fsdp=4 for the 8 here; {fitted.note}")


def test_a_table_without_fsdp_gives_way_to_one_that_splits_all(model):
    table = Sharding(parameters=ParameterAxes(embed=()))
    assert fsdp(model, table).table == Sharding()
    kept = Sharding(parameters=ParameterAxes(embed=(), ffn=("fsdp",)))
    assert fsdp(model, kept).table == kept


def test_a_mesh_that_is_asked_for_keeps_whole_what_tensor_does_not_divide(model):
    """A vocabulary of 257 bytes and marks, and the two key heads if they would be split four ways."""
    fitted = asked_for(model, Mesh(fsdp=4, tensor=2), Sharding())
    assert shape(fitted) == (1, 4, 2)
    assert fitted.table.parameters == ParameterAxes(vocab=())
    assert fitted.note == "tensor=2 does not divide vocab of 257: not split over tensor"
    four = asked_for(model, Mesh(tensor=4), Sharding())
    assert four.table.parameters == ParameterAxes(vocab=(), kv_heads=())
    assert "kv_heads of 2" in four.note
    even = dataclasses.replace(model, vocab_size=256)
    assert asked_for(even, Mesh(tensor=2), Sharding()).note is None


def test_a_mesh_that_cannot_be_is_refused(model, tiny_experiment):
    with pytest.raises(UserError, match="does not multiply to the 8 devices"):
        asked_for(model, Mesh(fsdp=3), Sharding())
    narrow = tiny_experiment(model__width=60, model__mixer="GroupedQuery(num_heads=3, head_dim=20)").model
    with pytest.raises(UserError, match="embed axis of 60 cannot be split 8 ways"):
        asked_for(narrow, Mesh(fsdp=8), Sharding())
