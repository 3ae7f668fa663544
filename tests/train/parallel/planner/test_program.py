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
