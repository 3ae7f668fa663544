"""The size of an engine's cache is known before any array is made, and fits the memory."""

import dataclasses

import jax
import pytest

from model.inference.engine import capacity as module
from model.inference.engine.capacity import capacity_of, plan_of, shares_pages
from model.inference.engine.options import EngineOptions
from model.parameters.precision import Precision
from tests.model.inference.engine.serving import DENSE, MODELS


@pytest.mark.parametrize("name", MODELS)
def test_capacity_is_known_before_arrays_are_made(name):
    options = EngineOptions(rows=3, page_size=4, tokens_per_step=5)
    plan = plan_of(MODELS[name], options)
    capacity, shapes = capacity_of(plan), jax.tree.leaves(plan.shapes())
    assert capacity.cache_bytes == sum(x.size * x.dtype.itemsize for x in shapes)
    assert capacity.longest_text == DENSE.context_length
    assert capacity.tokens == 3 * DENSE.context_length
    if name == "dense":  # two layers of keys and values, two heads of 4 float32
        assert capacity.bytes_per_token == 2 * 2 * 2 * 4 * 4
        assert capacity.bytes_per_row == 0
    if name == "state space":
        assert capacity.bytes_per_token == 0
        assert capacity.bytes_per_row * 3 == capacity.cache_bytes
    longest = {"encoder": 24, "encoder of a recurrence": 24, "long sources": 300}.get(name, 0)
    assert (capacity.longest_source, bool(capacity.describe_sources())) == (longest, longest > 0)
    if name == "encoder":  # two layers of keys and values of 24 tokens, four heads of 4 float32
        assert capacity.source_bytes == capacity.bytes_per_row == 2 * 2 * 24 * 4 * 4 * 4
        fewer = capacity_of(plan_of(MODELS[name], dataclasses.replace(options, source_tokens=6)))
        assert capacity.source_bytes == 4 * fewer.source_bytes
    if name == "window":  # one of the two layers keeps as many pages as a window and a step need
        assert capacity.bytes_per_token == 2 * 2 * 4 * 4
        assert 0 < capacity.bytes_per_row < 40 * capacity.bytes_per_token


def test_the_cache_takes_what_memory_there_is(monkeypatch):
    monkeypatch.setattr(module, "_device_memory", lambda: 2 * 40_000)
    plan = plan_of(DENSE, EngineOptions(rows=16, page_size=4))
    assert 4 <= capacity_of(plan).tokens < 16 * 40
    assert capacity_of(plan).cache_bytes <= 40_000


def test_texts_share_pages_where_a_page_depends_on_its_tokens_alone():
    assert [name for name in MODELS if not shares_pages(MODELS[name])] == [
        "delta",
        "state space",
        "GRU",
        "positions of lengths",
        "encoder of a recurrence",
    ]


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_a_smaller_format_holds_more(dtype):
    small, whole = (plan_of(DENSE, EngineOptions(rows=2, cache_dtype=each)) for each in (dtype, None))
    # Two layers of keys and values of two heads: four bytes and a scale in place of four float32.
    assert capacity_of(small).bytes_per_token == 2 * 2 * 2 * (4 + 4)
    assert capacity_of(whole).bytes_per_token == 2 * 2 * 2 * 4 * 4
    assert small.shapes()["0"]["k"].dtype == dtype
    assert small.shapes()["0"]["v_scale"].shape == (*small.shapes()["0"]["v"].shape[:3], 1)
    wide = dataclasses.replace(DENSE, width=256, precision=Precision(compute="bfloat16"))  # heads of 64
    small, whole = (capacity_of(plan_of(wide, EngineOptions(cache_dtype=each))) for each in (dtype, None))
    assert whole.bytes_per_token / small.bytes_per_token == 128 / 68
