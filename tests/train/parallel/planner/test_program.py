"""Collectives of compiled programs: literal instructions, and programs that XLA compiles for eight devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train.parallel.planner.program import Collective, collectives_of

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
PROGRAM = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%a, %b)
}}

%condition (state: (s32[], f32[8])) -> pred[] {{
  %limit = s32[] constant(5)
  ROOT %more = pred[] compare(%number, %limit), direction=LT
}}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {{
  {instruction}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %loop = (s32[], f32[8]) while(%start), condition=%condition, body=%body{trips}
}}
"""


def found(instruction, trips=""):
    return collectives_of(PROGRAM.format(instruction=instruction, trips=trips), MESH)


@pytest.mark.parametrize(
    ("instruction", "kind", "axes", "received"),
    [
        # 64 x 32 numbers of 4 bytes, of which one half is on the device already.
        (
            "%g = f32[64,32]{1,0} all-gather(%x), replica_groups={{0,2},{4,6},{1,3},{5,7}}, dimensions={0}",
            "all-gather",
            ("fsdp",),
            4096,
        ),
        (
            "%g = bf16[64,32]{1,0} all-gather(%x), replica_groups=[4,2]<=[4,2]T(1,0), dimensions={0}",
            "all-gather",
            ("fsdp",),
            2048,
        ),
        (
            "%r = f32[64]{0} all-reduce(%x), replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add",
            "all-reduce",
            ("data", "fsdp"),
            2 * 3 / 4 * 256,
        ),
        (
            "%r = f32[64]{0} all-reduce(%x), replica_groups={}, to_apply=%add",
            "all-reduce",
            tuple(MESH),
            2 * 7 / 8 * 256,
        ),
        (
            "%s = f32[16]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add",
            "reduce-scatter",
            ("fsdp", "tensor"),
            3 * 64,
        ),
        (
            "%p = f32[16]{0} collective-permute(%x), source_target_pairs={{0,0},{2,4},{4,2},{6,6}}",
            "collective-permute",
            ("data", "fsdp"),
            64,
        ),
        (
            "%g = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), replica_groups=[4,2]<=[8], dimensions={0}",
            "all-gather",
            ("tensor",),
            32,
        ),
        (
            "%a = (f32[8]{0}, f32[8]{0}) all-to-all(%x, %y), replica_groups=[4,2]<=[8]",
            "all-to-all",
            ("tensor",),
            32,
        ),
    ],
)
def test_bytes_and_axes_of_an_instruction(instruction, kind, axes, received):
    assert found(instruction) == (Collective(kind=kind, axes=axes, runs=5, received=5 * received),)


def test_a_stated_trip_count_goes_before_the_condition():
    (only,) = found(
        "%r = f32[64]{0} all-reduce(%x), replica_groups={}, to_apply=%add",
        trips=', backend_config={"known_trip_count":{"n":"7"}}',
    )
    assert only.runs == 7


def test_a_group_of_one_device_receives_nothing():
    (only,) = found("%g = f32[64]{0} all-gather(%x), replica_groups=[8,1]<=[8], dimensions={0}")
    assert (only.axes, only.received) == ((), 0)


# An all-gather and a reduce-scatter as libtpu writes them: an all-reduce of zeros into which a device writes its part, and
# one of which a device takes a slice. Of the second array, a device needs two of the four parts; of the third, all.
REWRITTEN = """HloModule step

ENTRY %main (w: f32[16,8], g: f32[64,8]) -> f32[16,8] {
  %w = f32[16,8]{1,0} parameter(0)
  %g = f32[64,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero = f32[] constant(0)
  %start = s32[] constant(0)
  %zeros = f32[64,8]{1,0} broadcast(%zero), dimensions={}
  %part = f32[64,8]{1,0} dynamic-update-slice(%zeros, %w, %at, %start)
  %all = f32[64,8]{1,0} all-reduce(%part), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  %sums = (f32[64,8]{1,0}, f32[64,8]{1,0}, f32[8]{0}) all-reduce(%g, %g, %v), channel_id=2, replica_groups=[1,4]<=[4]
  %a = f32[64,8]{1,0} get-tuple-element(%sums), index=0
  %b = f32[64,8]{1,0} get-tuple-element(%sums), index=1
  %c = f32[8]{0} get-tuple-element(%sums), index=2
  %mine = f32[16,8]{1,0} dynamic-slice(%a, %at, %start), dynamic_slice_sizes={16,8}
  %two = f32[32,8]{1,0} dynamic-slice(%b, %at, %start), dynamic_slice_sizes={32,8}
  %norm = f32[8]{0} multiply(%c, %c)
  ROOT %out = f32[16,8]{1,0} add(%mine, %all)
}
"""


def test_all_reduces_count_as_what_they_move():
    found = {one.kind: one for one in collectives_of(REWRITTEN, {"fsdp": 4})}
    whole = 64 * 8 * 4
    assert found["all-gather"] == Collective(kind="all-gather", axes=("fsdp",), runs=1, received=3 / 4 * whole)
    # Its own part of both sums, and of the second also the part of a neighbour, which that one gathered.
    assert found["reduce-scatter"].received == pytest.approx((3 / 4 + 3 / 4 + 1 / 4) * whole)
    assert found["all-reduce"].received == 2 * 3 / 4 * 8 * 4
    assert {one.runs for one in found.values()} == {1}


SHARED_CHANNEL = """HloModule step

%first (p: f32[16,8]) -> f32[64,8] {
  %p = f32[16,8]{1,0} parameter(0)
  ROOT %gather.1 = f32[64,8]{1,0} all-gather(%p), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}
}

%second (q: f32[16,8]) -> f32[64,8] {
  %q = f32[16,8]{1,0} parameter(0)
  ROOT %gather.2 = f32[64,8]{1,0} all-gather(%q), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}
}

ENTRY %main (w: f32[16,8]) -> f32[64,8] {
  %w = f32[16,8]{1,0} parameter(0)
  %there = f32[16,8]{1,0} all-to-all(%w), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %back = f32[16,8]{1,0} all-to-all(%there), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %begin = f32[64,8]{1,0} fusion(%back), kind=kCustom, calls=%first
  ROOT %end = f32[64,8]{1,0} fusion(%back), kind=kCustom, calls=%second
}
"""


def test_copies_in_fusions_count_once_and_others_of_the_same_channel_each():
    """JAX gives all collectives of `shard_map` one channel."""
    found = {one.kind: (one.runs, one.received) for one in collectives_of(SHARED_CHANNEL, {"fsdp": 4})}
    assert found == {"all-gather": (1, 3 / 4 * 64 * 8 * 4), "all-to-all": (2, 2 * 3 / 4 * 16 * 8 * 4)}


def test_a_compiled_scan_gathers_the_weights_of_every_layer():
    layers, width, rows = 5, 64, 8
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def layer(x, w):
        whole = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, PartitionSpec()))
        return jnp.tanh(x @ whole), None

    def stacked(w, x):
        return jax.lax.scan(layer, x, w)[0]

    def given(shape, *axes):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    program = jax.jit(stacked).lower(given((layers, width, width), None, "fsdp"), given((rows, width), "fsdp"))
    collectives = collectives_of(program.compile().as_text(), dict(mesh.shape))
    assert collectives == (
        Collective(kind="all-gather", axes=("fsdp",), runs=layers, received=layers * width * width * 4 * 7 / 8),
    )
