"""The speed of inference: its arithmetic, its table, and the texts behind it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import Gated
from train.generation import decoding_speed
from train.generation.decoding_speed import Cell, DecodingSpeed, copy_rate, measure
from train.parallel.mesh import Mesh
from train.parallel.mesh_choice import requested_mesh
from train.parallel.planner.serving import row_bytes, weights_of
from train.parallel.table import Sharding

CELL = Cell(
    rows=8,
    context=1024,
    compile_seconds=3.0,
    first_token_seconds=0.5,
    token_seconds=(0.02, 0.01, 0.01, 0.01),
    bytes_read=16e9,
    memory_rate=3.35e12,
)
CONFIG = ModelConfig(
    vocab_size=64,
    context_length=64,
    num_layers=1,
    width=16,
    mixer=GroupedQuery(num_heads=2),
    ffn=Gated(width=16),
)


def test_rates_follow_from_the_median_time_between_tokens():
    assert CELL.prefill_rate == 8 * 1024 / 0.5
    assert CELL.decode_rate == 800
    assert CELL.bandwidth_share == pytest.approx(16e9 / 0.01 / 3.35e12)
    assert 0.01 < CELL.quantile(0.99) < 0.02
    assert dataclasses.replace(CELL, memory_rate=None).bandwidth_share is None
    assert CELL.as_json()["token_seconds_p50"] == 0.01


def test_the_table():
    speed = DecodingSpeed("NVIDIA H100 80GB HBM3", 1, 16e9, (CELL,), ((64, 8192),))
    head, _, line, missing = speed.lines()
    assert "16.0 GB of weights, memory 3,350 GB/s published" in head
    assert line.split() == ["8", "1,024", "16.4k", "500.0", "800", "10.00", "19.70", "47.8%"]
    assert missing.split() == ["64", "8,192", "does", "not", "fit"]
    above = dataclasses.replace(speed, cells=(dataclasses.replace(CELL, memory_rate=1e12),), too_large=())
    assert above.lines()[-1].startswith("  above 100%: caches hold a part of what a step reads")
    assert json.loads(json.dumps(speed.as_json()))["cells"][0]["decode_rate"] == 800
    unknown = DecodingSpeed("Some chip", 1, 1.0, (dataclasses.replace(CELL, memory_rate=None),))
    assert "no memory rate is known of this device" in unknown.lines()[0]


def test_measures_a_grid(monkeypatch):
    """Two rows fit and four do not; the tokens of the measured steps are those of all rows."""
    shapes, seen = [], []
    decode = decoding_speed.decode

    def counted(config, layout, params, rules, state):
        shapes.append(state.token_B.shape)
        return decode(config, layout, params, rules, state)

    monkeypatch.setattr(decoding_speed, "decode", counted)
    monkeypatch.setattr(decoding_speed, "copy_rate", lambda: 1e9)
    monkeypatch.setattr(decoding_speed, "_exceeds", lambda device, config, params, rows, length, count: rows == 4)
    choice = requested_mesh(CONFIG, Mesh(data=jax.device_count()), Sharding())
    speed = measure(CONFIG, choice, [2, 4], [8], steps=3, warmup=2, on_progress=seen.append)
    assert seen == [0, 1]
    assert speed.too_large == ((4, 8),)
    (cell,) = speed.cells
    assert len(cell.token_seconds) == 3
    assert cell.memory_rate == 1e9
    caches = 2 * (row_bytes(CONFIG, 10) + row_bytes(CONFIG, 13)) / 2
    assert cell.bytes_read == weights_of(CONFIG, "float32", 2).read + caches
    assert shapes == [(8,)] * 7  # filled up to the devices: to compile, the first token, two to warm up, three


def test_a_context_without_room_is_refused():
    choice = requested_mesh(CONFIG, Mesh(data=jax.device_count()), Sharding())
    with pytest.raises(UserError, match="a prompt of 60 tokens and 5 steps exceed the context of 64"):
        measure(CONFIG, choice, [1], [60], steps=3, warmup=2)


def test_a_copy_is_measured():
    assert np.isfinite(copy_rate(1 << 16, 1))
