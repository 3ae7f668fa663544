"""The plan of inference in words and as JSON: what fits, and what bounds the speed."""

import dataclasses
import json

import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import SlidingWindow
from model.errors import UserError
from model.families.sizes import published
from model.layers import Except
from model.parameters.quantized_weights import QuantizedWeights
from tests.train.parallel.planner.planner_jobs import BF16, SERVED
from train.parallel.mesh import Mesh
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.serving import Devices, longest_context, row_bytes, weights_of
from train.parallel.planner.serving_plan import serve_plan


def test_a_plan_says_what_fits_and_what_bounds_the_speed():
    devices = Devices(parse_cluster("v5e:1x1"))
    config = dataclasses.replace(published("llama-2-7b"), precision=BF16)
    plan = serve_plan(config, devices, 4, 4096)
    text = "\n".join(plan.lines())
    row = 32 * 2 * 4096 * 2 * 4096
    assert row == row_bytes(config, 4096)
    assert plan.fits  # in int8
    weights, limit = weights_of(config, "bfloat16", 4), 16 * 2**30
    too_much = weights.stored + 4 * row + 4 * 4 * 32000 - limit
    assert f"does not fit: {too_much / 2**30:.2f} GiB too much; 1 row of 4,096 tokens (4,096 tokens)" in text
    left = limit - weights_of(config, "int8", 4).stored - 4 * 4 * 32000
    longest = longest_context(config, 4, left, devices)
    assert 4 * row_bytes(config, longest) <= left < 4 * row_bytes(config, longest + 1)
    assert (
        f"fits; room for {int(left // row)} rows of 4,096 tokens ({int(left // row) * 4096:,} tokens), or 4 rows of {longest:,}"
        in text
    )
    seconds = (weights.read + 4 * row) / 819e9
    assert f"{1e3 * seconds:.2f} ms (memory), {1 / seconds:.1f} tokens/s a row, {4 / seconds:,.0f} in all" in text
    assert "524kB for one token more" in text
    assert not serve_plan(config, devices, 64, 4096).fits


def test_layers_of_two_kinds_are_told_apart():
    config = dataclasses.replace(
        SERVED,
        exceptions=(
            Except(layers=":1", mixer=GroupedQuery(num_heads=8, num_kv_heads=2, pattern=SlidingWindow(size=64))),
        ),
    )
    text = "\n".join(serve_plan(config, Devices(parse_cluster("h100:1x1")), 1, 2048).lines())
    assert "  1 layers  RingCache of 64 slots" in text
    assert "  3 layers  ContiguousCache of 2,048 slots" in text
    assert "fits; room for" in text


def test_a_quantised_model_has_its_own_format_alone():
    config = published("llama-2-7b")
    quantised = dataclasses.replace(config.precision, weights=QuantizedWeights(format="int4", group=128))
    config, devices = dataclasses.replace(config, precision=quantised), Devices(parse_cluster("h100:1x1"))
    (found,) = serve_plan(config, devices, 1, 64).formats
    expected = weights_of(config.unquantized(), "int4", 1).stored
    assert (found.number_format, found.stored) == ("int4:128", pytest.approx(expected, rel=0.04))


def test_a_context_that_the_model_does_not_read_is_refused():
    for context in (0, 4097):
        with pytest.raises(UserError, match=f"--context={context}: the model reads 1 to 4,096 tokens"):
            serve_plan(SERVED, Devices(parse_cluster("h100:1x1")), 1, context)


def test_as_json():
    plan = serve_plan(SERVED, Devices(parse_cluster("h100:1x2"), Mesh(tensor=2)), 4, 1024, (1, 8))
    found = json.loads(json.dumps(plan.as_json()))
    assert found["mesh"] == "tensor=2"
    assert found["token_bytes"] == 4 * 2 * 2 * 32 * 2
    int8 = found["formats"]["int8"]
    assert int8["fits"]
    assert int8["most_tokens"] == int8["most_rows"] * 1024
    assert [step["rows"] for step in int8["decode"]] == [1, 4, 8]
    for step in int8["decode"]:
        assert step["tokens_per_second"] == step["rows"] * step["tokens_per_second_of_a_row"]
        assert step["seconds"][step["limit"]] == max(step["seconds"].values())
