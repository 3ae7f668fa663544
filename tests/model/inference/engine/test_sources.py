"""Sources in an engine: their arrays, the program that reads one, and what is refused. Exactness: test_exactness.py."""

import dataclasses

import jax
import numpy as np
import pytest

from model.encoder.additive import AdditiveAttention
from model.encoder.source import Source
from model.errors import UserError
from model.inference.engine.draft import DraftModel
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.engine.sources import NAME, check_source, plan_sources, read_source
from model.inference.engine.speculation import Draft
from model.inference.request import Request
from model.layout import ONE_DEVICE
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK
from model.stack import empty_caches
from model.transformer import stream
from tests.model.inference.engine.serving import DENSE, ENCODER, MODELS, params_of

CONFIG = MODELS["encoder"]
LONG = dataclasses.replace(CONFIG, encoder=dataclasses.replace(ENCODER, context_length=300))


def test_every_row_has_pages_for_the_longest_source():
    plan = plan_sources(LONG, EngineOptions(rows=3))
    assert (plan.page_size, plan.pages_of_row, plan.all_slots()) == (128, 3, [16, 32, 64, 128, 256, 300])
    shapes = plan.shapes()
    assert sorted(shapes) == [NAME + "0", NAME + "1"]
    assert shapes[NAME + "1"]["k"].shape == shapes[NAME + "1"]["v"].shape == (9, 4, 128, 4)
    assert plan.row_bytes == 2 * 2 * 3 * 128 * 4 * 4 * 4  # layers, keys and values, slots, heads, widths, float32
    short = plan_sources(LONG, EngineOptions(rows=3, source_tokens=20))
    assert (short.page_size, short.pages_of_row, short.all_slots()) == (20, 1, [16, 20])
    assert plan_sources(CONFIG, EngineOptions(source_tokens=99)).longest == 24
    assert plan_sources(DENSE, EngineOptions()) is None


@pytest.mark.parametrize("stored", [None, "int8"])
def test_the_keys_of_a_source_are_those_of_generate_and_lie_in_its_row(stored):
    plan = plan_sources(LONG, EngineOptions(rows=3, source_tokens=160, cache_dtype=stored))
    params, ids = params_of("encoder"), np.random.default_rng(0).integers(0, 61, (1, 130)).astype(np.int32)
    source = Source.of_lengths(ids, np.array([130]))
    empty = empty_caches(LONG, 1, 1)
    tokens = np.zeros((1, 1), np.int32)
    read = jax.jit(lambda params: stream(LONG, params, tokens, cache=empty, source=source).cache)
    expected = read(params)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), plan.shapes())
    padded, row = np.pad(ids, ((0, 0), (0, 30))), np.array([1], np.int32)
    state = read_source(LONG, ONE_DEVICE, plan, params, zeros, padded, np.array([130], np.int32), row)
    for layer in plan.layers:
        kept = plan.cache(state[NAME + layer], np.array([1, 0]), np.array([130, 1])).kept()
        for found, name in ((kept.k_BSKH, "k_BKSH"), (kept.v_BSKH, "v_BKSH")):
            whole = np.asarray(found.block(0, 2))
            of_generate = np.asarray(getattr(expected[layer].source, name))[0, :, :130]
            largest = np.abs(of_generate).max()
            assert np.abs(whole[0, :, :130] - of_generate).max() < (1e-5 if stored is None else largest / 100)
            assert not whole[0, :, 130:].any()
            assert not whole[1].any()
        np.testing.assert_array_equal(
            np.asarray(kept.segment_ids_BS)[:, [0, 1, 129, 130]], [[0, 0, 0, -1], [0, -1, -1, -1]]
        )


def test_sources_that_are_refused():
    plan = plan_sources(CONFIG, EngineOptions())
    for given, source, message in (
        (None, (1,), "request.source: this model has no encoder"),
        (plan, None, "request.source: this model has an encoder; give the ids"),
        (plan, (99,), "request.source: has ids from 99 to 99"),
        (plan, (1,) * 26, "the source has 26 tokens, more than the 24 that the engine reads; shorten it by 2 tokens"),
    ):
        with pytest.raises(UserError, match=message):
            check_source(given, Request(prompt=(7,), source=source), 61)
    assert check_source(plan, Request(prompt=(7,), source=(1,) * 24), 61) is None
    assert dict(Request(prompt=(7,), source=()).problems()).keys() == {"source"}


def test_models_that_are_refused():
    scaled = dataclasses.replace(CONFIG, position=Rotary(scaling=DynamicNTK(factor=2.0, original_length=4)))
    additive = dataclasses.replace(CONFIG, encoder=dataclasses.replace(ENCODER, cross=AdditiveAttention()))
    for config, message in (
        (scaled, "positions that depend on its length"),
        (additive, "no model whose layers read a source by AdditiveAttention"),
    ):
        with pytest.raises(UserError, match=message):
            Engine(config, {}, EngineOptions())
    assert additive.needs_static_batches
    assert not CONFIG.needs_static_batches
    for target, draft, what in ((CONFIG, DENSE, "the model"), (DENSE, CONFIG, "the draft model")):
        name = "encoder" if target is CONFIG else "dense"
        with pytest.raises(UserError, match=rf"engine.speculation: {what} has an encoder.*NGram\(\)"):
            Engine(target, params_of(name), EngineOptions(speculation=Draft()), draft=DraftModel(draft, {}))
