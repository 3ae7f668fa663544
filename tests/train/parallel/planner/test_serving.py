"""Inference on a cluster: bytes of weights by format, of caches by kind, and the bound by memory traffic, by hand."""

import dataclasses

import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import SlidingWindow
from model.errors import UserError
from model.families.sizes import published
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.parameters.precision import Precision
from model.recurrent import LSTM
from model.vocabulary.embedding import Tied
from tests.train.parallel.planner.planner_jobs import BF16, SERVED
from train.parallel.mesh import Mesh
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.serving import Devices, in_format, longest_context, row_bytes, token_bytes, weights_of

LAYER = 2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 512  # matrices: queries and output, keys and values, feed-forward


@pytest.mark.parametrize(
    ("changes", "bytes_"),
    [
        ({}, 4 * 1024 * 2 * 2 * 32 * 2),  # 4 layers of keys and values of 2 heads of 32
        (
            {"mixer": GroupedQuery(num_heads=8, num_kv_heads=2, pattern=SlidingWindow(size=128))},
            4 * 128 * 2 * 2 * 32 * 2,
        ),
        (
            {"mixer": Latent(num_heads=4, kv_rank=64, head_dim=32, rotary_head_dim=16, value_head_dim=32)},
            4 * 1024 * 80 * 2,
        ),
        ({"precision": Precision()}, 4 * 1024 * 2 * 2 * 32 * 4),
    ],
    ids=["grouped heads", "window", "latent", "float32"],
)
def test_bytes_of_a_row(changes, bytes_):
    assert row_bytes(dataclasses.replace(SERVED, **changes), 1024) == bytes_


def test_a_recurrent_state_does_not_grow():
    config = dataclasses.replace(SERVED, mixer=LSTM(num_heads=4))
    assert row_bytes(config, 1) == row_bytes(config, 4096) > 0
    one = Devices(parse_cluster("h100:1x1"))
    assert longest_context(config, 1, row_bytes(config, 1), one) == 1 << 24
    assert longest_context(config, 2, row_bytes(config, 1), one) == 0


def test_weights_by_format():
    counts = {name: weights_of(SERVED, name, 1) for name in ("bfloat16", "int8", "int4")}
    norms, table, logits = 9 * 256, 1000 * 256, 256 * 1000
    assert counts["bfloat16"].stored == 2 * (4 * LAYER + norms + table + logits)
    assert counts["bfloat16"].read == counts["bfloat16"].stored - 2 * table  # a look-up reads a row
    int8 = 4 * (LAYER + 2 * (2 * 256 + 2 * 64 + 2 * 512 + 256)) + logits + 2 * 1000  # a scale for each column
    assert counts["int8"].stored == int8 + 2 * (norms + table)
    assert counts["int4"].stored == (4 * LAYER + logits) * (0.5 + 2 / 128) + 2 * (norms + table)
    tied = weights_of(dataclasses.replace(SERVED, unembedding=Tied()), "bfloat16", 1)
    assert tied.read == tied.stored == counts["bfloat16"].read


def test_a_step_reads_the_experts_that_rows_choose():
    config = dataclasses.replace(SERVED, ffn=Experts(num_experts=8, top_k=2, expert=Gated(width=512)))
    experts = 2 * 4 * 8 * 3 * 256 * 512
    few, many = weights_of(config, "bfloat16", 1), weights_of(config, "bfloat16", 1000)
    assert few.stored == many.stored
    assert many.read - few.read == pytest.approx(experts * (1 - 2 / 8), rel=1e-6)


def test_the_bandwidth_bounds_llama_8b_on_an_h100_as_published():
    config = dataclasses.replace(published("llama-3.1-8b"), precision=BF16)
    found = in_format(config, Devices(parse_cluster("h100:1x1")), "bfloat16", 1, 1024, (1, 64))
    assert found.stored == 2 * 8_030_261_248
    assert token_bytes(config, 1024) == 32 * 2 * 8 * 128 * 2
    # Published bounds, 190 to 209 tokens/s, divide by all weights; a step does not read the table of tokens.
    assert 190 < 3.35e12 / found.stored < 209
    table = 2 * 128_256 * 4096
    assert found.steps[0].seconds["memory"] == pytest.approx((found.stored - table + 1024 * 131_072) / 3.35e12)
    assert found.steps[0].row_rate == pytest.approx(221, abs=1)
    assert found.steps[0].limit == "memory"
    flops = 2 * (found.stored - table) / 2 + 32 * 2 * 2 * 4096 * 1024  # of one token: matrices, queries and values
    assert found.steps[1].seconds["operations"] == pytest.approx(64 * flops / 989.5e12, rel=1e-3)
    assert found.prefill_rate == pytest.approx(989.5e12 / (2 * 6.98e9), rel=0.03)  # no logits, half the pairs


def test_the_latents_of_deepseek_v3_take_70_kilobytes_a_token():
    config = dataclasses.replace(published("deepseek-v3"), precision=BF16)
    assert token_bytes(config, 4096) == 61 * (512 + 64) * 2 == 70_272


def test_a_window_stops_growing():
    config = dataclasses.replace(
        SERVED, mixer=GroupedQuery(num_heads=8, num_kv_heads=2, pattern=SlidingWindow(size=64))
    )
    assert token_bytes(config, 64) == 4 * 2 * 2 * 32 * 2
    assert token_bytes(config, 65) == 0


def test_a_mesh_splits_weights_and_caches_by_the_table():
    cluster = parse_cluster("h100:1x4")
    whole = weights_of(SERVED, "bfloat16", 8)
    norms = 2 * 9 * 256
    tensor = Devices(cluster, Mesh(tensor=2))  # data=2
    split = weights_of(SERVED, "bfloat16", 8, tensor)
    assert split.stored == (whole.stored - norms) / 2 + norms
    assert split.received == 0
    assert tensor.cache_bytes(SERVED, 8, 1024) == 8 * row_bytes(SERVED, 1024) / 4
    assert tensor.cache_bytes(SERVED, 3, 1024) == 4 * row_bytes(SERVED, 1024) / 4  # filled up to 4 rows
    wide = Devices(cluster, Mesh(tensor=4))  # two heads are not split four ways: each device has both
    assert wide.cache_bytes(SERVED, 1, 1024) == row_bytes(SERVED, 1024)


def test_gathered_weights_are_received_from_other_devices():
    cluster = parse_cluster("h100:1x4")
    whole = weights_of(SERVED, "bfloat16", 8)
    gathered = weights_of(SERVED, "bfloat16", 8, Devices(cluster, Mesh(fsdp=4)))
    assert gathered.stored == whole.stored / 4
    assert gathered.read == whole.read
    assert gathered.received == whole.read * 3 / 4
    step = in_format(SERVED, Devices(cluster, Mesh(fsdp=4)), "bfloat16", 4, 512, (4,)).steps[0]
    assert step.seconds["network"] == gathered.received / 450e9
    assert step.limit == "network"


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"--mesh=tensor=3 does not multiply to the 4 devices of h100:1x4"):
        Devices(parse_cluster("h100:1x4"), Mesh(data=1, tensor=3))
