"""Inference on a cluster: bytes of weights by format, of caches by kind, and the bound by memory traffic, by hand."""

import dataclasses

import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import SlidingWindow
from model.config import ModelConfig
from model.errors import UserError
from model.families.sizes import published
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.layers import Except
from model.parameters.precision import Precision
from model.recurrent import LSTM
from model.vocabulary.embedding import Tied, Untied
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.serving import longest_context, row_bytes, serve_plan, weights_of

BF16 = Precision(compute="bfloat16")
MODEL = ModelConfig(
    vocab_size=1000,
    context_length=4096,
    num_layers=4,
    width=256,
    mixer=GroupedQuery(num_heads=8, num_kv_heads=2),
    ffn=Gated(width=512),
    unembedding=Untied(),
    precision=BF16,
)
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
    assert row_bytes(dataclasses.replace(MODEL, **changes), 1024) == bytes_


def test_a_recurrent_state_does_not_grow():
    config = dataclasses.replace(MODEL, mixer=LSTM(num_heads=4))
    assert row_bytes(config, 1) == row_bytes(config, 4096) > 0
    assert longest_context(config, 1, row_bytes(config, 1)) == 1 << 24
    assert longest_context(config, 2, row_bytes(config, 1)) == 0


def test_weights_by_format():
    counts = {name: weights_of(MODEL, name, 1) for name in ("bfloat16", "int8", "int4")}
    norms, table, logits = 9 * 256, 1000 * 256, 256 * 1000
    assert counts["bfloat16"].stored == 2 * (4 * LAYER + norms + table + logits)
    assert counts["bfloat16"].read == counts["bfloat16"].stored - 2 * table  # a look-up reads a row
    int8 = 4 * (LAYER + 2 * (2 * 256 + 2 * 64 + 2 * 512 + 256)) + logits + 2 * 1000  # a scale for each column
    assert counts["int8"].stored == int8 + 2 * (norms + table)
    assert counts["int4"].stored == (4 * LAYER + logits) * (0.5 + 2 / 128) + 2 * (norms + table)
    tied = weights_of(dataclasses.replace(MODEL, unembedding=Tied()), "bfloat16", 1)
    assert tied.read == tied.stored == counts["bfloat16"].read


def test_a_step_reads_the_experts_that_rows_choose():
    config = dataclasses.replace(MODEL, ffn=Experts(num_experts=8, top_k=2, expert=Gated(width=512)))
    experts = 2 * 4 * 8 * 3 * 256 * 512
    few, many = weights_of(config, "bfloat16", 1), weights_of(config, "bfloat16", 1000)
    assert few.stored == many.stored
    assert many.read - few.read == pytest.approx(experts * (1 - 2 / 8), rel=1e-6)


def test_a_plan_says_what_fits_and_what_bounds_the_speed():
    cluster = parse_cluster("v5e:1x1")
    config = dataclasses.replace(published("llama-2-7b"), precision=BF16)
    plan = serve_plan(config, cluster, 4, 4096)
    text = "\n".join(plan.lines)
    row = 32 * 2 * 4096 * 2 * 4096
    assert row == row_bytes(config, 4096)
    assert plan.fits  # in int8
    weights, limit = weights_of(config, "bfloat16", 4), 16 * 2**30
    too_much = weights.stored + 4 * row + 4 * 4 * 32000 - limit
    assert f"does not fit: {too_much / 2**30:.2f} GiB too much; 1 row of 4,096 tokens (4,096 tokens)" in text
    left = limit - weights_of(config, "int8", 4).stored - 4 * 4 * 32000
    longest = longest_context(config, 4, left)
    assert 4 * row_bytes(config, longest) <= left < 4 * row_bytes(config, longest + 1)
    assert (
        f"fits; room for {int(left // row)} rows of 4,096 tokens ({int(left // row) * 4096:,} tokens), or 4 rows of {longest:,}"
        in text
    )
    seconds = (weights.read + 4 * row) / 819e9
    assert f"{1e3 * seconds:.2f} ms, {1 / seconds:.1f} tokens/s a row, {4 / seconds:,.0f} in all" in text
    assert "524kB for one token more" in text
    assert not serve_plan(config, cluster, 64, 4096).fits


def test_layers_of_two_kinds_are_told_apart():
    config = dataclasses.replace(
        MODEL,
        exceptions=(
            Except(layers=":1", mixer=GroupedQuery(num_heads=8, num_kv_heads=2, pattern=SlidingWindow(size=64))),
        ),
    )
    text = "\n".join(serve_plan(config, parse_cluster("h100:1x1"), 1, 2048).lines)
    assert "  1 layers  RingCache of 64 slots" in text
    assert "  3 layers  ContiguousCache of 2,048 slots" in text
    assert "fits; room for" in text


def test_a_context_that_the_model_does_not_read_is_refused():
    for context in (0, 4097):
        with pytest.raises(UserError, match=f"--context={context}: the model reads 1 to 4,096 tokens"):
            serve_plan(MODEL, parse_cluster("h100:1x1"), 1, context)
