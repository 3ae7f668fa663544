"""The collectives of a compiled program, from its text: how often each runs, over which mesh axes, how much it moves.

Instructions in the body of a loop count as often as the loop turns: by the trip count that XLA states, or else by the
one number with which the loop's condition compares. The bytes are those that one device receives, by what moves: of n
devices, an all-gather brings (n - 1)/n of its result, a reduce-scatter (n - 1)/n of its operand, an all-reduce twice
that of its operand, an all-to-all (n - 1)/n of its result, a permutation its whole result. libtpu writes an all-gather
as an all-reduce of zeros into which each device writes its part, and a reduce-scatter as an all-reduce of which each
device takes a slice: these count as the all-gather and the reduce-scatter that they are.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from train.parallel.planner.hlo import Instruction, Program, sizes

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]+)\] \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{\d+,\d+\}(?:,\{\d+,\d+\})*)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """The collectives of one kind over the same mesh axes.

    Attributes:
      kind: as XLA names it, or what it amounts to (see the module).
      axes: the mesh axes over which devices exchange numbers, in the order of the mesh; () where none is known.
      runs: how often they run in a step, all together.
      received: the bytes that one device receives in a step.
    """

    kind: str
    axes: tuple[str, ...]
    runs: int
    received: float


def collectives_of(text: str, mesh: Mapping[str, int]) -> tuple[Collective, ...]:
    """Returns the collectives of a compiled program (`compiled.as_text()`), the largest first.

    Args:
      text: the optimized program of one device.
      mesh: the sizes of the mesh axes, in order; devices are numbered along them.
    """
    program = Program.parse(text)
    runs: dict[tuple[str, tuple[str, ...]], int] = collections.defaultdict(int)
    received: dict[tuple[str, tuple[str, ...]], float] = collections.defaultdict(float)
    for instruction in _collectives(program):
        times = program.runs[instruction.computation]
        axes, moved = _moves(program, instruction, mesh)
        for kind, size in moved.items():
            runs[kind, axes] += times
            received[kind, axes] += times * size
    all_of_them = [Collective(kind=k, axes=axes, runs=runs[k, axes], received=received[k, axes]) for k, axes in runs]
    return tuple(sorted(all_of_them, key=lambda found: -found.received))


def _collectives(program: Program) -> Iterator[Instruction]:
    """Yields each collective that runs once.

    libtpu splits a collective that runs beside a computation into several fusions, each with a copy of the instruction:
    copies have the number of the channel in common. Outside of fusions, so have all collectives of JAX's `shard_map`.
    """
    fused = {name for each in program.runs for name in program.fused(each)}
    seen = set()
    for computation in program.runs:
        for instruction in program.instructions(computation):
            if instruction.opcode.removesuffix("-start") not in KINDS:
                continue
            channel = _CHANNEL.search(instruction.rest) if computation in fused else None
            if channel is None or channel[1] not in seen:
                seen.add(channel and channel[1])
                yield instruction


def _moves(
    program: Program, instruction: Instruction, mesh: Mapping[str, int]
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Returns the mesh axes of a collective, and the bytes that a device receives, by the kind of what moves."""
    kind, begun = instruction.opcode.removesuffix("-start"), instruction.opcode.endswith("-start")
    arrays = sizes(instruction.shape)
    # An instruction that only begins an asynchronous one has its operands beside its result.
    result = max(arrays, default=0) if begun and kind != "all-reduce" else sum(arrays)
    if kind == "collective-permute":
        pairs = _PAIRS.search(instruction.rest)
        members = [[int(n) for n in pair.split(",")] for pair in _braced(pairs[1])] if pairs else []
        moving = [pair for pair in members if pair[0] != pair[1]]
        return _axes(moving, mesh), {kind: result if moving else 0}
    groups = _groups(instruction.rest)
    size = max((len(group) for group in groups), default=math.prod(mesh.values()))
    share, axes = (size - 1) / size, _axes(groups, mesh)
    if kind != "all-reduce":
        return axes, {kind: result * (share * size if kind == "reduce-scatter" else share)}
    moved: dict[str, float] = collections.defaultdict(float)
    for part, (operand, bytes_of_part) in enumerate(zip(instruction.operands, arrays, strict=False)):
        used = program.part_used(instruction, part if len(instruction.operands) > 1 else None)
        if program.is_written_into_zeros(instruction, operand):
            moved["all-gather"] += share * bytes_of_part
        elif used < 1:  # devices that need more than their own n-th part gather the others
            moved["reduce-scatter"] += (share + max(0.0, used - 1 / size)) * bytes_of_part
        else:
            moved[kind] += 2 * share * bytes_of_part
    return axes, moved


def _braced(text: str) -> list[str]:
    return re.findall(r"\{([\d,]+)\}", text)


def _groups(line: str) -> list[list[int]]:
    """The groups of devices that exchange numbers, in any of the three forms of XLA; none where all are one group."""
    if listed := _LISTED.search(line):
        return [[int(n) for n in group.split(",")] for group in _braced(listed[1])]
    if iota := _IOTA.search(line):
        dimensions = [int(n) for n in iota[3].split(",")]
        numbers = np.arange(math.prod(dimensions)).reshape(dimensions)
        if iota[4]:
            numbers = numbers.transpose([int(n) for n in iota[4].split(",")])
        return [[int(n) for n in group] for group in numbers.reshape(int(iota[1]), int(iota[2]))]
    if named := _NAMED.search(line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        chosen = re.findall(r"'([^']+)'", named[2])
        numbers = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        order = [axis for axis, name in enumerate(sizes) if name not in chosen]
        order += [list(sizes).index(name) for name in chosen]
        width = math.prod(sizes[name] for name in chosen)
        return [[int(n) for n in group] for group in numbers.transpose(order).reshape(-1, width)]
    return []


def _axes(groups: list[list[int]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ; without groups all devices are one."""
    sizes = tuple(mesh.values())
    places = [np.unravel_index(group, sizes) for group in groups or [list(range(math.prod(sizes)))]]
    return tuple(name for axis, name in enumerate(mesh) if any(len(set(place[axis])) > 1 for place in places))
