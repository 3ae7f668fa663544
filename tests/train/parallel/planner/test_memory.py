import dataclasses

import pytest

from model.families.sizes import published
from tests.train.parallel.planner.planner_jobs import changed, experts, job, work
from train.parallel.planner.memory import memory_of
from train.parallel.planner.work import KEPT

LLAMA, GIB = 6_738_415_616, 2**30


def test_the_state_of_llama_2_7b_by_hand():
    memory = memory_of(job("v5p:4x4x4", work("llama-2-7b"), 4))
    assert memory.parameters == LLAMA * 4 / 64
    assert memory.moments == LLAMA * 8 / 64
    assert memory.gradients == LLAMA * 4 / 64
    assert memory.parameters + memory.moments == pytest.approx(1.18 * GIB, rel=0.01)  # arguments, by the compiler
    assert memory.gathered == (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) * (2 + 4)


def test_what_layers_keep_by_hand():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4)
    assert memory_of(one).kept == 4096 * 2**20  # the compiled program holds 4,096 MiB of saved stream
    kept = dataclasses.replace(one, kept=frozenset({"query", "attention"}))
    assert memory_of(kept).kept == 3 * memory_of(one).kept
    everything = dataclasses.replace(one, kept=frozenset(KEPT))
    assert memory_of(everything).kept == 32 * 4 * 4096 * 2 * (7 * 4096 + 2 * 11008)
    between = dataclasses.replace(one, kept=frozenset(KEPT) | {"between"})  # and two norms, a sum, the hidden layer
    assert memory_of(between).kept == 32 * 4 * 4096 * 2 * (10 * 4096 + 3 * 11008)


def test_a_pipeline_keeps_the_weights_of_its_stage_gathered():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4, ways={"fsdp": 32, "stage": 2}, microbatches=4)
    assert memory_of(one).gathered == pytest.approx(LLAMA / 2 * (2 + 4))


# Peaks that the compiler found: Cairn's from tests/benchmarks/README.md, and MaxText 0.2.5's, GiB a chip. A compiler
# orders a program with less memory for a chip that has little, so that v5e and v5p differ by more than their state.
@pytest.mark.parametrize(
    ("model", "cluster", "rows", "gradients", "limit", "peak"),
    [
        ("llama-2-7b", "v5p:4x4x4", 4, 4, 1 << 26, 8.86),
        ("llama-2-7b", "v5e:16x16", 1, 2, 1 << 40, 2.71),
        ("llama-2-7b", "v5e:16x16", 4, 2, 1 << 40, 7.08),
        ("llama-2-7b", "v5p:4x4x4", 1, 2, 1 << 40, 3.90),
        ("llama-2-7b", "v5p:4x4x4", 4, 2, 1 << 40, 9.59),
        ("llama-2-7b", "v6e:16x16", 4, 2, 1 << 40, 8.29),
        ("llama-2-13b", "v5e:16x16", 1, 2, 1 << 40, 4.04),
        ("llama-2-13b", "v5e:16x16", 4, 2, 1 << 40, 10.94),
        ("llama-2-13b", "v5p:4x4x4", 1, 2, 1 << 40, 6.49),
        ("llama-2-13b", "v5p:4x4x4", 4, 2, 1 << 40, 14.31),
        ("llama-3.1-405b", "v5p:8x8x8", 1, 2, 1 << 40, 39.73),
    ],
)
def test_the_estimate_is_near_the_compilers_peak(model, cluster, rows, gradients, limit, peak):
    one = job(cluster, work(model), rows, gradient_bytes=gradients, logits_limit=limit)
    assert memory_of(one).total / GIB == pytest.approx(peak, rel=0.17)


def test_memory_grows_with_rows_and_shrinks_with_parts():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4)
    assert memory_of(dataclasses.replace(one, batch=2 * one.batch)).total > memory_of(one).total
    assert memory_of(changed(one, data=64)).total > memory_of(one).total
    assert memory_of(dataclasses.replace(one, microbatches=4)).total < memory_of(one).total
    assert memory_of(changed(one, fsdp=16, tensor=4)).layer == memory_of(one).layer
    assert memory_of(changed(one, fsdp=16, tensor=4)).gathered < memory_of(one).gathered
    # A quarter of the layers for four times the rows; the inputs of 4 micro-batches, and of 3 ticks in which a stage waits.
    staged = dataclasses.replace(changed(one, fsdp=16, stage=4), microbatches=4)
    assert memory_of(staged).kept == memory_of(one).kept * 7 / 4


def test_logits_take_a_chunk():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4)
    assert memory_of(one).logits == 2 * 4 * 2**26
    assert memory_of(dataclasses.replace(one, logits_limit=1 << 40)).logits == 2 * 4 * 4 * 4096 * 32000


def test_experts_are_split_over_their_axis():
    one = job("v5p:4x4x4", experts(), 4)
    split = changed(one, fsdp=16, expert=4)
    assert memory_of(split).parameters == pytest.approx(memory_of(one).parameters)
    assert memory_of(split).gathered < memory_of(one).gathered
    assert memory_of(changed(one, data=64)).gathered == 0


def test_scores_in_arrays_fill_the_layer():
    one = job("v5p:4x4x4", work("llama-2-7b"), 1)
    arrays = dataclasses.replace(one, attention="arrays")
    assert memory_of(arrays).layer - memory_of(one).layer == 2 * 32 * 4096 * 4096 * 2
    assert published("llama-2-7b").width == one.work.width
