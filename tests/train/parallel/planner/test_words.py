import pytest

from tests.train.parallel.planner.planner_jobs import experts, job, work
from train.parallel.planner.loads import loads_of
from train.parallel.planner.memory import memory_of
from train.parallel.planner.step_time import step_time
from train.parallel.planner.words import nearest_fit, plan_of
from train.parallel.planner.work import KEPT

LLAMA = job("v5p:4x4x4", work("llama-2-7b"), 4)


def test_a_plan_says_what_was_computed():
    plan = plan_of(LLAMA, 1000)
    text = "\n".join(plan.lines)
    seconds = step_time(LLAMA).total
    assert plan.fits
    for words in (
        "6.74B parameters, 32 layers, 256 x 4,096 tokens a step",
        "v5p:4x4x4: 64 chips, mesh fsdp=64 (in chips)",
        f"{memory_of(LLAMA).total / 2**30:.2f} GiB of 95.00 GiB",
        "GiB are left",
        "logits                        512.00 MiB",
        f"MFU {100 * loads_of(LLAMA).model_flops / 459e12 / seconds:.1f}% of 459 TFLOP/s",
        f"{256 * 4096 / seconds:,.0f} tokens/s",
        f"{1000 * seconds / 3600 * 64:,.1f} chip-hours",
        "gathers of weights, forward and backward     26.5 GB  links    44.2 ms",
        "assumptions",
        "have equal loads",
    ):
        assert words in text


def test_one_chip_has_no_transfers():
    assert "no transfers between chips" in plan_of(job("h200:1x1", work("llama-2-7b")), 10).lines


def test_a_pipeline_and_micro_batches_are_named():
    one = job("h100:1x8", experts(), 8, ways={"fsdp": 2, "stage": 4}, microbatches=8)
    text = "\n".join(plan_of(one, 10).lines)
    assert "in 8 micro-batches" in text
    assert "pipeline bubble" in text


@pytest.mark.parametrize(
    ("cluster", "rows", "kept", "words"),
    [
        ("v5e:4x4", 1, frozenset(KEPT), "it fits with --set model.remat=full"),
        ("v5e:8x8", 16, frozenset(), "it fits with --set training.gradient_accumulation=2"),
        ("v5e:4x4", 2, frozenset(KEPT), "it fits with --set model.remat=full"),
    ],
)
def test_a_plan_that_does_not_fit_names_the_nearest_that_does(cluster, rows, kept, words):
    one = job(cluster, work("llama-2-7b"), rows, kept=kept)
    plan = plan_of(one, 10)
    too_much = memory_of(one).total / 2**30 - 16
    assert not plan.fits
    assert any(f"does not fit: {too_much:.2f} GiB too much; {words}" in line for line in plan.lines)


def test_more_chips_are_the_last_resort():
    one = job("v5e:2x4", work("llama-3.1-8b"), 2)
    assert memory_of(one).total > one.cluster.chip.hbm
    words = nearest_fit(one)
    assert "it fits on v5e:4x4 with --mesh=fsdp=16 --set model.remat=full" in words
    hopeless = job("v5e:1x1", work("llama-3.1-405b"), 1)
    assert "does not fit on 64 times the chips either" in nearest_fit(hopeless)
