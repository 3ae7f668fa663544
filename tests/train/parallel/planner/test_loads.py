import dataclasses

import pytest

from tests.train.parallel.planner.planner_jobs import changed, experts, job, work
from train.parallel.planner.loads import loads_of, passes, recomputed_share
from train.parallel.planner.work import KEPT

LLAMA = 6_738_415_616


def products(one):
    return sum(load.flops for load in loads_of(one).products)


def test_operations_of_llama_2_7b_by_hand():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4)
    tokens = 4 * 4096
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    matrices, last = 32 * layer + 4096 * 32000, 32 * 4096 * 11008
    # 6 N D, and 2 N D once more for what is made again: all of a layer but its last product.
    assert products(one) == 6 * tokens * matrices + 2 * tokens * (32 * layer - last)
    loads = loads_of(one)
    (attention,) = loads.attention
    forward = 32 * tokens * 4 * 4096 * 4097 / 2
    assert (attention.forward, attention.backward) == (2 * forward, 2.5 * forward)
    assert loads.model_flops == 6 * tokens * matrices + 3 * forward


def test_nothing_is_made_again_where_all_is_kept():
    one = job("v5p:4x4x4", work("llama-2-7b"), 4, kept=frozenset(KEPT))
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    assert products(one) == 6 * 4 * 4096 * matrices
    (attention,) = loads_of(one).attention
    assert attention.backward == 2.5 * attention.forward
    assert passes(one, "query") == passes(one, "ffn_output") == 3


def test_each_kept_product_saves_work():
    kept, before = frozenset(), products(job("v5p:4x4x4", work("llama-2-7b")))
    for name in ("query", "key", "value", "mixer_output", "ffn_gate", "ffn_up"):
        kept |= {name}
        one = job("v5p:4x4x4", work("llama-2-7b"), kept=kept)
        assert products(one) < before
        before = products(one)
    (layer,) = one.work.layers
    assert recomputed_share(one, layer) == 0


def test_a_mesh_shares_the_operations():
    one = job("h100:8x8", work("llama-2-7b"), 4)
    for ways in ({"fsdp": 16, "tensor": 4}, {"data": 64}, {"fsdp": 16, "context": 4}, {"fsdp": 16, "stage": 4}):
        assert products(changed(one, **ways)) == pytest.approx(products(one))
        assert loads_of(changed(one, **ways)).model_flops == loads_of(one).model_flops


def test_sides_are_padded_to_the_matrix_unit():
    one = job("v6e:4x4", work("llama-2-7b"))  # 11,008 is 43 x 256
    assert products(one) == products(job("v5e:4x4", work("llama-2-7b")))
    split = job("v6e:4x4", work("llama-2-7b"), ways={"tensor": 16})  # 688 becomes 768, 256 stays
    assert products(split) > 1.05 * products(one)
    assert products(job("h100:2x8", work("llama-2-7b"), ways={"tensor": 16})) == products(one)


def test_experts_are_grouped_products_unless_they_have_a_capacity():
    dropless, capacity = job("v5p:2x2x1", experts()), job("v5p:2x2x1", experts(1.5))
    grouped = sum(load.flops for load in loads_of(dropless).products if load.grouped)
    assert grouped == 2 * 2048 * 2 * (4 * (3 + 4 + 4) * 1024 * 2048)  # down is not made again
    assert not any(load.grouped for load in loads_of(capacity).products)
    assert products(capacity) - products(dropless) == pytest.approx(grouped / 2)
    assert loads_of(capacity).model_flops == loads_of(dropless).model_flops
    assert loads_of(dropless).dispatch > 0
    assert loads_of(job("v5p:2x2x1", work("llama-2-7b"))).dispatch == 0


def test_attention_in_arrays_multiplies_all_pairs_and_moves_scores():
    tiles = loads_of(job("v5p:4x4x4", work("llama-2-7b")))
    arrays = loads_of(job("v5p:4x4x4", work("llama-2-7b"), attention="arrays"))
    assert (len(tiles.attention), tiles.scores) == (1, 0)
    assert arrays.attention == ()
    assert arrays.scores == 48 * 32 * 4096 * 32 * 4096
    more = sum(p.flops for p in arrays.products) - sum(p.flops for p in tiles.products)
    assert more == 4 * 32 * 4096 * 4 * 4096 * 4096


def test_parts_of_a_sequence_attend_in_loops_where_no_kernel_takes_them():
    """All tiles of 512 keys that a query sees any of: on average half a tile more than the keys that it sees."""
    split = {"ways": {"context": 4}, "context_kernel": False}
    kernel = loads_of(job("h100:1x8", work("llama-2-7b"), 1, ways={"context": 4}))
    loops = loads_of(job("h100:1x8", work("llama-2-7b"), 1, **split))
    assert (len(kernel.attention), kernel.scores, loops.attention) == (1, 0, ())
    layers, heads, tokens, seen = 32, 32, 8 * 4096 / 4, 4097 / 2 + 256
    assert loops.scores == pytest.approx(48 * layers * heads * tokens * seen)
    more = sum(p.flops for p in loops.products) - sum(p.flops for p in kernel.products)
    assert more == pytest.approx(4 * layers * tokens * seen * 4 * heads * 128)
    assert loads_of(job("h100:1x8", work("llama-2-7b"), 1, context_kernel=False)).attention  # whole sequences


def test_narrow_formats_leave_logits_and_routers_alone():
    formats = [load.number_format for load in loads_of(job("v7x:2x2x1", experts(), number_format="fp8")).products]
    assert formats.count("bf16") == 2
    assert set(formats) == {"fp8", "bf16"}


def test_the_optimizer_touches_a_chips_part_of_the_state():
    one = job("v5p:4x4x4", work("llama-2-7b"))
    assert loads_of(one).optimizer == pytest.approx(LLAMA / 64 * (2 * (4 + 8) + 2 * 4))
    assert loads_of(changed(one, data=64)).optimizer == pytest.approx(LLAMA * 32)


def test_a_pipeline_idles_less_with_more_micro_batches():
    one = job("h100:1x8", work("llama-2-7b"), 4, ways={"stage": 8}, microbatches=8)
    assert loads_of(one).bubble == 7 / 8
    assert loads_of(dataclasses.replace(one, virtual_stages=4)).bubble == 7 / 32
    assert loads_of(dataclasses.replace(one, microbatches=32)).bubble == 7 / 32


def test_a_split_stream_is_read_and_written_once():
    one = job("v5p:4x4x4", work("llama-2-7b"), ways={"fsdp": 16, "tensor": 4})
    whole = dataclasses.replace(one, stream_split=False)
    assert loads_of(whole).elementwise > loads_of(one).elementwise
