import dataclasses
import itertools

import pytest

from tests.train.parallel.planner.planner_jobs import changed, experts, job, work
from train.parallel.planner.chips import CHIPS, power_limited
from train.parallel.planner.efficiency import ATTENTION_SHARE, FITTED, TILE, Efficiency
from train.parallel.planner.loads import loads_of
from train.parallel.planner.step_time import attainable, step_time, time_of
from train.parallel.planner.work import KEPT

LLAMA = job("v5p:4x4x4", work("llama-2-7b"), 4)
PERFECT = Efficiency(
    matmul=dict.fromkeys(ATTENTION_SHARE, 1.0),
    narrow=1.0,
    attention={"tpu": 1.0, "gpu": 1.0},
    traffic=0.0,
    dispatch=0.0,
    waiting=0.0,
)


def test_products_of_a_perfect_chip_take_their_operations_by_its_peak():
    found = time_of(loads_of(LLAMA), LLAMA.cluster.chip, 1, PERFECT)
    operations = sum(load.flops for load in loads_of(LLAMA).products)
    assert found.products == pytest.approx(operations / 459e12)
    assert (found.memory, found.waiting, found.bubble, found.slices) == (0, 0, 0, 0)


def test_attention_by_hand():
    (load,) = loads_of(LLAMA).attention
    pairs = 4097 / 2
    rate = 459e12 * ATTENTION_SHARE["v5p"][128] * pairs / (pairs + TILE["tpu"] / 2)
    found = time_of(loads_of(LLAMA), LLAMA.cluster.chip, 1, PERFECT)
    assert found.attention == pytest.approx(load.forward / rate + load.backward / (0.74 * rate))


@pytest.mark.parametrize(
    ("chip", "length", "measured"), [("v5p", 4096, 222), ("v5p", 16384, 343), ("h100", 16384, 645)]
)
def test_the_speed_of_kernels_is_the_measured_one(chip, length, measured):
    """TFLOP/s of a causal forward pass with head width 128, from tokamax's autotuning data."""
    kind, pairs = CHIPS[chip].kind, length / 2
    share = ATTENTION_SHARE[CHIPS[chip].family][128]
    speed = CHIPS[chip].rate("bf16") / 1e12 * share * pairs / (pairs + TILE[kind] / 2)
    assert speed == pytest.approx(measured, rel=0.04)


def test_parts_add_up():
    one = job("v5e:16x16", experts(), 8, slices=2, ways={"data": 2, "fsdp": 64, "expert": 4})
    found = step_time(one)
    parts = found.computation + found.waiting + found.exposed + found.bubble + found.slices
    assert found.total == parts
    assert all(value >= 0 for value in dataclasses.asdict(found).values())
    assert "slices" in found.describe()
    assert "bubble" not in found.describe()


def faster(one, other):
    return step_time(other).total < step_time(one).total


def test_what_must_be_faster_is():
    half = dataclasses.replace(LLAMA, batch=LLAMA.batch // 2)
    assert faster(LLAMA, half)
    assert step_time(half).total > step_time(LLAMA).total / 2  # what does not depend on the batch remains
    assert faster(LLAMA, dataclasses.replace(LLAMA, kept=frozenset(KEPT)))
    assert faster(dataclasses.replace(LLAMA, attention="arrays"), LLAMA)
    assert faster(LLAMA, dataclasses.replace(LLAMA, gradient_bytes=2))
    assert faster(LLAMA, dataclasses.replace(LLAMA, moments=1))
    assert faster(changed(LLAMA, data=64), LLAMA)  # whole parameters have whole updates
    assert faster(changed(LLAMA, fsdp=16, tensor=4), LLAMA)
    assert faster(dataclasses.replace(LLAMA, microbatches=4), LLAMA)


@pytest.mark.parametrize(("slower", "quicker"), [("v5e", "v6e"), ("v4", "v5p"), ("v5p", "v7x")])
def test_a_later_chip_is_faster(slower, quicker):
    shape = "4x4" if slower == "v5e" else "4x2x2"
    assert faster(job(f"{slower}:{shape}", work("llama-2-7b"), 2), job(f"{quicker}:{shape}", work("llama-2-7b"), 2))
    gpus = [job(f"{name}:2x8", work("llama-2-7b"), 2) for name in ("a100", "h100", "h200", "b200")]
    assert all(faster(one, other) for one, other in itertools.pairwise(gpus))


def test_slices_nodes_and_power_cost_time():
    one = job("v5e:16x16", work("llama-2-7b"), 4)
    several = job("v5e:16x16", work("llama-2-7b"), 4, slices=4, ways={"data": 4, "fsdp": 256})
    more = job("v5e:16x16", work("llama-2-7b"), 4, slices=16, ways={"data": 16, "fsdp": 256})
    assert step_time(one).slices == 0
    assert faster(several, one)
    assert faster(more, several)
    node = job("h100:1x8", work("llama-2-7b"), 1)
    assert faster(job("h100:2x4", work("llama-2-7b"), 1), node)
    limited = power_limited(node.cluster.chip, 500)
    assert faster(dataclasses.replace(node, cluster=dataclasses.replace(node.cluster, chip=limited)), node)


def test_narrow_formats_are_faster_where_the_hardware_has_them():
    for name, shape in (("v7x", "2x2x1"), ("h100", "1x4")):
        one = job(f"{name}:{shape}", work("llama-2-7b"), 4)
        assert faster(one, dataclasses.replace(one, number_format="fp8"))
    one = job("v6e:2x2", work("llama-2-7b"), 4)  # fp8 at the rate of bf16
    assert step_time(dataclasses.replace(one, number_format="fp8")).attention == step_time(one).attention
    assert attainable(CHIPS["v5e"], "fp8", False, FITTED) == attainable(CHIPS["v5e"], "bf16", False, FITTED)
    assert attainable(CHIPS["v5e"], "int8", False, FITTED) > attainable(CHIPS["v5e"], "bf16", False, FITTED)


def test_an_older_attention_kernel_is_slower_on_newer_gpus_alone():
    for name, ratio in (("h100", True), ("a100", False)):
        one = job(f"{name}:1x8", work("llama-2-7b"), 4)
        older = dataclasses.replace(one, attention="older tiles")
        assert (step_time(older).attention > step_time(one).attention) == ratio


def test_transfers_longer_than_the_computation_set_the_pace():
    one = job("v5e:16x16", work("llama-2-7b"), 1)
    found = step_time(dataclasses.replace(one, batch=256, work=work("llama-2-7b", 64)))
    assert found.beside > found.products + found.attention + found.memory
    assert found.total == pytest.approx(found.beside + found.optimizer)


def test_experts_without_a_capacity_pay_for_groups():
    dropless = step_time(job("v5p:2x2x1", experts()))
    plain = attainable(CHIPS["v5p"], "bf16", False, FITTED)
    assert attainable(CHIPS["v5p"], "bf16", True, FITTED) < plain
    assert dropless.memory > 0


def test_every_chip_has_its_constants():
    for chip in CHIPS.values():
        assert 0 < FITTED.matmul[chip.family] < 1
        assert list(ATTENTION_SHARE[chip.family]) == [64, 128, 256]
        assert (
            step_time(
                job(f"{chip.name}:{'2x2x1' if chip.name in ('v4', 'v5p', 'v7x') else '1x4'}", work("llama-2-7b"))
            ).total
            > 0
        )
