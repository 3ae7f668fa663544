"""The engine on eight virtual devices: the tokens of one device, and no collective in its programs without need."""

import dataclasses
import functools
import math

import jax
import pytest

from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.transformer import abstract_params, logical_axes
from tests.model.inference.engine.serving import DENSE, MODELS, serve
from tests.model.inference.greedy import draw
from tests.tiers import SWEEP
from tests.train.parallel.test_collectives import collectives
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ParameterAxes, Sharding, layout_of, param_shardings

TABLE = Sharding(parameters=ParameterAxes(vocab=()))  # 61 tokens split no way
OPTIONS = EngineOptions(rows=4, tokens_per_step=9, page_size=4, cache_tokens=88)
REQUESTS = [
    Request(prompt=tuple(range(1 + 7 * i, 9 + 9 * i)), sampling=Sampling(temperature=0, max_tokens=6)) for i in range(3)
]


@functools.cache
def tokens_of_one_device():
    return [answer.tokens for answer in serve(Engine(DENSE, draw(DENSE), OPTIONS), REQUESTS)]


def engine_on(mesh, devices=8, config=DENSE):
    made, params = make_mesh(mesh, jax.devices()[:devices]), draw(config)
    placed = jax.device_put(params, param_shardings(made, TABLE, logical_axes(config), abstract_params(config)))
    return Engine(config, placed, OPTIONS, layout=layout_of(made, TABLE))


def test_heads_and_their_pages_are_split_and_only_sums_travel():
    engine = engine_on(Mesh(tensor=2), devices=2)
    assert [answer.tokens for answer in serve(engine, REQUESTS)] == tokens_of_one_device()
    assert engine.is_exact
    heads = {x.sharding.spec[1] for arrays in engine._device._state.values() for x in arrays.values()}
    assert heads == {"tensor"}
    for (name, rows, tokens), program in engine._device._programs.items():
        # One sum over heads and one over the feed-forward width in a layer; the last program ends before its second.
        found = collectives(program.as_text())
        kinds = {(kind, dtype, math.prod(sizes)) for kind, dtype, sizes in found}
        assert kinds == {("all-reduce", "f32", rows * tokens * DENSE.width)}, name
        assert sum(found.values()) <= 2 * DENSE.num_layers, name


@SWEEP
@pytest.mark.parametrize("mesh", [Mesh(data=2, fsdp=2, tensor=2), Mesh(fsdp=8)])
def test_rows_and_parameters_are_split_too(mesh):
    assert [answer.tokens for answer in serve(engine_on(mesh), REQUESTS)] == tokens_of_one_device()


@SWEEP
@pytest.mark.parametrize("mesh", [Mesh(tensor=2), Mesh(data=2), Mesh(fsdp=2, tensor=2)])
def test_sources_lie_on_the_devices_of_their_heads(mesh):
    config = MODELS["encoder"]
    requests = [dataclasses.replace(each, source=each.prompt) for each in REQUESTS]
    engine = engine_on(mesh, 4 if mesh.fsdp == 2 else 2, config)
    expected = serve(Engine(config, draw(config), OPTIONS), requests)
    assert [answer.tokens for answer in serve(engine, requests)] == [answer.tokens for answer in expected]
    heads = {x.sharding.spec[1:2] for arrays in engine._device._state.values() for x in arrays.values()}
    assert heads == {("tensor",) if mesh.tensor == 2 else ()}
