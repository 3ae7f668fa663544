"""The collectives of a compiled program, from its text: how often each runs, over which mesh axes, how much it moves.

Instructions in the body of a loop count as often as the loop turns: by the trip count that XLA states, or else by the
one number with which the loop's condition compares. The bytes are those that one device receives, by what moves: of n
devices, an all-gather brings (n - 1)/n of its result, a reduce-scatter (n - 1)/n of its operand, an all-reduce twice
that of its operand, an all-to-all (n - 1)/n of its result, a permutation its whole result. On TPUs an all-gather of
weights may stand as an all-reduce of a dynamic-update-slice, and counts as the all-reduce that the program names.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_COLLECTIVE = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(r"\b(?:body|calls|to_apply|called_computations|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)\}?")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]+)\] \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{\d+,\d+\}(?:,\{\d+,\d+\})*)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """The collectives of one kind over the same mesh axes.

    Attributes:
      kind: as XLA names it.
      axes: the mesh axes over which devices exchange numbers, in the order of the mesh; () where none is known.
      runs: how often they run in a step, all together.
      received: the bytes that one device receives in a step.
    """

    kind: str
    axes: tuple[str, ...]
    runs: int
    received: float


@dataclasses.dataclass(frozen=True)
class _Instruction:
    kind: str
    axes: tuple[str, ...]
    received: float


def collectives_of(text: str, mesh: Mapping[str, int]) -> tuple[Collective, ...]:
    """Returns the collectives of a compiled program (`compiled.as_text()`), the largest first.

    Args:
      text: the optimized program of one device.
      mesh: the sizes of the mesh axes, in order; devices are numbered along them.
    """
    inside: dict[str, list[_Instruction]] = collections.defaultdict(list)
    calls: dict[str, list[tuple[str, str, int]]] = collections.defaultdict(list)
    limits: dict[str, list[int]] = collections.defaultdict(list)
    entry = current = ""
    for line in text.splitlines():
        if begun := _COMPUTATION.match(line):
            current = begun[2]
            entry = current if begun[1] else entry
        elif found := _COLLECTIVE.search(line):
            inside[current].append(_instruction(line, found, mesh))
        elif limit := _LIMIT.search(line):
            limits[current].append(int(limit[1]))
        condition, trips = _CONDITION.search(line), _TRIPS.search(line)
        for names in _CALLED.findall(line):
            known = int(trips[1]) if trips else 0
            calls[current] += [(n.strip(" %"), condition[1] if condition else "", known) for n in names.split(",")]
    runs: dict[tuple[str, tuple[str, ...]], int] = collections.defaultdict(int)
    received: dict[tuple[str, tuple[str, ...]], float] = collections.defaultdict(float)

    def add(computation: str, times: int) -> None:
        for instruction in inside[computation]:
            key = instruction.kind, instruction.axes
            runs[key] += times
            received[key] += times * instruction.received
        for name, condition, known in calls[computation]:
            compared = limits[condition]  # a loop over layers counts from 0 to the one number in its condition
            add(name, times * (known or (compared[0] if len(compared) == 1 else 1)))

    add(entry, 1)
    all_of_them = [Collective(kind=k, axes=axes, runs=runs[k, axes], received=received[k, axes]) for k, axes in runs]
    return tuple(sorted(all_of_them, key=lambda found: -found.received))


def _instruction(line: str, found: re.Match[str], mesh: Mapping[str, int]) -> _Instruction:
    """The collective of a line; a group of one device exchanges nothing."""
    kind, result = found[2], _result_bytes(found[1], begun=bool(found[3]))
    if kind == "collective-permute":
        pairs = _PAIRS.search(line)
        members = [[int(n) for n in pair.split(",")] for pair in _braced(pairs[1])] if pairs else []
        moving = [pair for pair in members if pair[0] != pair[1]]
        return _Instruction(kind, _axes(moving, mesh), result if moving else 0)
    groups = _groups(line)
    size = max((len(group) for group in groups), default=math.prod(mesh.values()))
    share = (size - 1) / size
    factor = {"all-reduce": 2 * share, "reduce-scatter": share * size}.get(kind, share)
    return _Instruction(kind, _axes(groups, mesh), factor * result)


def _result_bytes(shape: str, begun: bool) -> int:
    """The bytes of a result: of all its arrays, since one instruction may send several.

    An instruction that only begins an asynchronous one has its operands beside its result: half of its arrays.
    """

    def bytes_of(dtype: str, dimensions: str) -> int:
        bits = re.search(r"\d+", dtype)
        size = math.prod(int(d) for d in dimensions.split(",") if d)
        return size * (int(bits[0]) if bits else 8) // 8

    sizes = [bytes_of(*array) for array in _SHAPE.findall(shape)]
    return max(sizes, default=0) if begun else sum(sizes)


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
