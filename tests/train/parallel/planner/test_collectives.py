import dataclasses

import pytest

from tests.train.parallel.planner.planner_jobs import experts, job, work
from train.parallel.planner.collectives import held_parameters, local_parameters, routes, transfers

GB, GIB = 1e9, 2**30
LLAMA = 6_738_415_616  # parameters of LLaMA-2 7B


def received(one, axis, purpose=""):
    return sum(t.received for t in transfers(one) if t.axis == axis and purpose in t.purpose)


def test_fsdp_of_llama_2_7b_over_64_chips_by_hand():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4)
    assert {t.axis for t in transfers(one)} == {"fsdp"}
    assert received(one, "fsdp", "gathers") == pytest.approx(2 * 2 * LLAMA * 63 / 64)  # twice, 2 bytes each
    assert received(one, "fsdp", "scatters") == pytest.approx(4 * LLAMA * 63 / 64)
    # Three rings of four chips, each with a link of 100 GB/s in either direction.
    seconds = sum(t.seconds for t in transfers(one))
    assert seconds == pytest.approx(8 * LLAMA * 63 / 64 / (6 * 100 * GB))


def test_the_gathers_are_those_of_the_compiled_program():
    """tests/benchmarks/README.md: results of 12.06 GiB twice for layers and 24.13 GiB for their gradients."""
    (layer,) = work("llama-2-7b").layers
    assert 2 * layer.repeats * layer.parameters / GIB == pytest.approx(12.06, abs=0.01)
    assert 4 * layer.repeats * layer.parameters / GIB == pytest.approx(24.13, abs=0.01)


def test_data_parallel_reduces_gradients_once_however_many_micro_batches_there_are():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4, ways={"data": 64}, microbatches=4)
    assert {t.axis for t in transfers(one)} == {"data"}
    assert received(one, "data") == pytest.approx(2 * 4 * LLAMA * 63 / 64)
    sharded = job("v5p:4x4x4", work("llama-2-7b"), 4, ways={"data": 4, "fsdp": 16}, microbatches=4)
    assert received(sharded, "data") == pytest.approx(2 * 4 * LLAMA / 16 * 3 / 4)
    assert received(sharded, "fsdp") == pytest.approx(4 * 8 * LLAMA * 15 / 16)  # each micro-batch gathers


def test_tensor_parallel_moves_streams():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4, ways={"fsdp": 16, "tensor": 4})
    stream = 256 / 16 * 4096 * 4096 * 2
    # Two sublayers forward and backward, and attention's output made again.
    assert received(one, "tensor") == pytest.approx(32 * 5 * 2 * 3 / 4 * stream)
    kept = dataclasses.replace(one, kept=frozenset({"mixer_output"}))
    assert received(kept, "tensor") == pytest.approx(32 * 4 * 2 * 3 / 4 * stream)
    assert received(one, "fsdp", "gathers") == pytest.approx(2 * 2 * LLAMA / 4 * 15 / 16)
    assert not any(t.hidden for t in transfers(one) if t.axis == "tensor")


def test_context_parallel_moves_keys_and_values_and_splits_parameters():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4, ways={"fsdp": 16, "context": 4})
    tokens = 256 * 4096 / 64
    assert received(one, "context", "keys") == pytest.approx(32 * 8192 * tokens * 2 * 3 * 4)
    assert held_parameters(one) == LLAMA / 64
    assert received(one, "fsdp", "gathers") == pytest.approx(2 * 2 * LLAMA / 4 * 15 / 16)
    assert received(one, "context", "gathers") == pytest.approx(2 * 2 * LLAMA * 3 / 4)
    assert received(one, "context", "scatters") == pytest.approx(4 * LLAMA * 3 / 4)


def test_expert_parallel_splits_experts_and_exchanges_tokens():
    one = job("v5p:4x4x4", experts(), 4, ways={"fsdp": 16, "expert": 4})
    routed = 4 * 8 * 3 * 1024 * 2048
    rest = experts().parameters - routed
    assert local_parameters(one) == (rest, routed / 4)
    assert received(one, "fsdp", "gathers") == pytest.approx(2 * 2 * (rest / 4 + routed / 4) * 15 / 16)
    assert received(one, "expert", "gathers") == pytest.approx(2 * 2 * rest * 3 / 4)
    stream = 4 * 2048 * 1024 * 2
    assert received(one, "expert", "all-to-all") == pytest.approx(4 * 5 * 2 * 3 / 4 * stream)


def test_a_token_goes_once_to_a_node_however_many_of_its_experts_are_there():
    inside = job("h100:1x8", experts(), 4, ways={"expert": 8})
    between = job("h100:8x8", experts(), 4, ways={"expert": 8, "fsdp": 8})
    spread = job("h100:2x4", experts(), 4, ways={"expert": 8})
    stream = 4 * 2048 * 1024 * 2
    for one in (inside, between):
        assert received(one, "expert", "all-to-all") == pytest.approx(4 * 5 * 2 * 7 / 8 * stream)
        assert routes(one)["expert"].network == "links"
    assert routes(spread)["expert"].network == "network"
    assert received(spread, "expert", "all-to-all") == pytest.approx(4 * 5 * (1 - 0.5**2) * stream)


def test_a_pipeline_gathers_its_weights_once():
    once = job("h100:8x8", work("llama-2-7b"), 8, ways={"fsdp": 8, "stage": 8}, microbatches=16)
    assert received(once, "fsdp", "gathers") == pytest.approx(2 * 2 * LLAMA / 8 * 7 / 8)
    assert received(once, "stage") == pytest.approx(2 * 512 / 8 * 4096 * 4096 * 2)


def test_slices_reduce_the_parts_of_gradients_over_the_slow_network():
    one = job("v5e:16x16", work("llama-2-7b"), 1, slices=4, ways={"data": 4, "fsdp": 256})
    assert received(one, "data") == 0
    assert received(one, "slices") == pytest.approx(2 * 3 / 4 * LLAMA / 256 * 4)
    (between,) = (t for t in transfers(one) if t.axis == "slices")
    assert between.network == "network"
    assert between.seconds == pytest.approx(between.received / (25 / 8 * GB))
    spread = dataclasses.replace(one, across_slices="fsdp")
    spread = dataclasses.replace(spread, ways=dataclasses.replace(one.ways, data=1, fsdp=1024))
    assert received(spread, "slices") == pytest.approx(LLAMA / 256 * 3 / 4 * 8)
    assert received(spread, "fsdp") == pytest.approx(8 * LLAMA * 255 / 256)


def test_a_pipeline_over_slices_sends_activations_over_the_slow_network():
    one = job("v5e:2x2", experts(), 2, slices=2, ways={"fsdp": 4, "stage": 2}, microbatches=2, across_slices="stage")
    assert received(one, "slices") == 0
    (between,) = (t for t in transfers(one) if t.axis == "stage")
    assert between.network == "network"
    assert between.received == 2 * 16 / 4 * 2048 * 1024 * 2


@pytest.mark.parametrize(
    ("cluster", "ways", "axis", "links"),
    [
        ("v5p:8x8x8", {"fsdp": 512}, "fsdp", 6),
        ("v5p:8x8x8", {"fsdp": 64, "tensor": 8}, "fsdp", 4),
        ("v5p:8x8x8", {"fsdp": 64, "tensor": 8}, "tensor", 2),
        ("v5p:8x8x8", {"fsdp": 128, "tensor": 4}, "tensor", 1),  # half a ring is a line
        ("v5e:16x16", {"fsdp": 256}, "fsdp", 4),
        ("v5e:8x8", {"fsdp": 64}, "fsdp", 2),  # too short to be a ring
        ("v5e:16x16", {"fsdp": 16, "tensor": 16}, "tensor", 2),
    ],
)
def test_links_of_an_axis_on_a_torus(cluster, ways, axis, links):
    one = job(cluster, work("llama-2-7b"), 8, ways=ways)
    assert routes(one)[axis].rate == links * one.cluster.chip.interconnect.link


@pytest.mark.parametrize(
    ("cluster", "ways", "axis", "rate", "network"),
    [
        ("h100:1x8", {"fsdp": 8}, "fsdp", 450, "links"),
        ("h100:8x8", {"fsdp": 64}, "fsdp", 8 * 50, "network"),  # all adapters of a node gather together
        ("h100:8x4", {"fsdp": 32}, "fsdp", 4 * 50, "network"),
        ("h100:8x8", {"fsdp": 8, "tensor": 8}, "fsdp", 50, "network"),
        ("h100:8x8", {"fsdp": 8, "tensor": 8}, "tensor", 450, "links"),
        ("gb200:1x64", {"fsdp": 8, "tensor": 8}, "fsdp", 900, "links"),
    ],
)
def test_rates_of_an_axis_of_gpus(cluster, ways, axis, rate, network):
    found = routes(job(cluster, work("llama-2-7b"), 8, ways=ways))[axis]
    assert (found.rate, found.network) == (rate * GB, network)


def test_an_exchange_on_a_torus_takes_the_longer_way():
    """On a ring of 16 chips two are 4 links apart in the mean."""
    route = routes(job("v5e:16x16", experts(), 1, ways={"fsdp": 16, "expert": 16}))["expert"]
    assert route.rate / route.exchange_rate == 4
