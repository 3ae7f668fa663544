"""The text of a compiled program: loops, and the way of a value through copies, tuples and fusions."""

import pytest

from train.parallel.planner.hlo import Program, elements, sizes

# Forms that libtpu writes, with the attributes left out that nothing reads.
TEXT = """HloModule jit_train_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_slice (x: f32[64,32], at: s32[]) -> f32[8,32] {
  %x = f32[64,32]{1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %half = bf16[64,32]{1,0:T(8,128)(2,1)} convert(%x)
  ROOT %part = bf16[8,32]{1,0:T(8,128)(2,1)} dynamic-slice(%half, %at, %zero), dynamic_slice_sizes={8,32}
}

%fused_update (base: bf16[64,32], own: bf16[8,32], at: s32[]) -> bf16[64,32] {
  %base = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %own = bf16[8,32]{1,0:T(8,128)(2,1)} parameter(1)
  %place = s32[]{:T(128)} parameter(2)
  %none = s32[]{:T(128)} constant(0)
  ROOT %written = bf16[64,32]{1,0:T(8,128)(2,1)} dynamic-update-slice(%base, %own, %place, %none)
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  ROOT %next = (s32[]{:T(128)}, f32[8]{0:T(256)}) tuple(%number, %value)
}

%condition (state.1: (s32[], f32[8])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  ROOT %more = pred[]{:T(512)} compare(%number.1, %limit), direction=LT
}

ENTRY %main (p: bf16[8,32]) -> f32[8] {
  %p = bf16[8,32]{1,0:T(8,128)(2,1)} parameter(0)
  %place.1 = s32[]{:T(128)} parameter(1)
  %nothing = bf16[]{:T(256)} constant(0)
  %zeros = bf16[64,32]{1,0:T(8,128)(2,1)} broadcast(%nothing), dimensions={}
  %filled = bf16[64,32]{1,0:T(8,128)(2,1)} fusion(%zeros, %p, %place.1), kind=kLoop, calls=%fused_update
  %moved = (bf16[64,32]{1,0:T(8,128)(2,1)S(1)}, bf16[64,32]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%filled)
  %there = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} copy-done(%moved)
  %sums = (f32[64,32]{1,0:T(8,128)}, /*index=1*/f32[4,4]{1,0:T(4,128)}) all-reduce(%grads, %small), to_apply=%add
  %first = f32[64,32]{1,0:T(8,128)} get-tuple-element(%sums), index=0
  %second = f32[4,4]{1,0:T(4,128)} get-tuple-element(%sums), index=1
  %mine = bf16[8,32]{1,0:T(8,128)(2,1)} fusion(%first, %place.1), kind=kLoop, calls=%fused_slice
  %square = f32[4,4]{1,0:T(4,128)} multiply(%second, %second)
  ROOT %loop = (s32[]{:T(128)}, f32[8]{0:T(256)}) while(%start), condition=%condition, body=%body
}
"""
PROGRAM = Program.parse(TEXT)


def instruction(name, computation="main"):
    return PROGRAM.computations[computation][name]


def test_instructions_are_read_with_their_operands():
    sums = instruction("sums")
    assert (sums.opcode, sums.operands, sums.is_root) == ("all-reduce", ("grads", "small"), False)
    assert sums.called == ["add"]
    assert sizes(sums.shape) == [64 * 32 * 4, 4 * 4 * 4]
    assert elements(sums.shape) == 64 * 32
    assert PROGRAM.entry == "main"
    assert instruction("first").index == 0
    assert instruction("at", "fused_slice").index == 1


def test_a_body_runs_as_often_as_its_condition_says():
    assert PROGRAM.runs["main"] == 1
    assert PROGRAM.runs["body"] == 5
    stated = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert Program.parse(stated).runs["body"] == 7


def test_the_part_of_a_result_that_is_used():
    assert PROGRAM.part_used(instruction("sums"), 0) == 8 / 64  # by a fusion that takes a slice
    assert PROGRAM.part_used(instruction("sums"), 1) == 1.0
    assert PROGRAM.part_used(instruction("loop")) == 1.0  # the result of the program


def test_a_part_written_into_zeros_is_found_through_fusions_and_copies():
    filled = instruction("there")
    assert PROGRAM.is_written_into_zeros(filled, "there")
    other = Program.parse(TEXT.replace("broadcast(%nothing)", "broadcast(%place.1)"))
    assert not other.is_written_into_zeros(filled, "there")
    assert not PROGRAM.is_written_into_zeros(instruction("sums"), "grads")


@pytest.mark.parametrize(("shape", "bytes_"), [("pred[8]", 8), ("s4[4,4]{1,0}", 8), ("f8e4m3fn[16]", 16), ("f32[]", 4)])
def test_bytes_of_shapes(shape, bytes_):
    assert sizes(shape) == [bytes_]
