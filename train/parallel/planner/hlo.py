"""The text of a compiled program (`compiled.as_text()`) as instructions that know their operands and their uses."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Self

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$")
_CALLED = re.compile(r"\b(?:body|calls|to_apply|called_computations|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)\}?")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INDEX = re.compile(r"\bindex=(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
# These hand a value on as it is, in another layout, form or place.
_SAME_VALUE = ("bitcast", "copy", "copy-start", "copy-done", "reshape", "transpose", "convert", "optimization-barrier")


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line of a program.

    Attributes:
      computation: the name of the computation that it is in.
      name: its own.
      shape: of its result, as text.
      opcode: as XLA names it.
      operands: the names of its operands.
      rest: the line after the opcode.
      is_root: whether its result is that of the computation.
    """

    computation: str
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def called(self) -> list[str]:
        """The computations that it runs."""
        return [name.strip(" %") for names in _CALLED.findall(self.rest) for name in names.split(",")]

    @property
    def index(self) -> int:
        """The number of a parameter, or of the part that `get-tuple-element` takes."""
        if self.opcode == "parameter":
            return int(self.rest.split(")")[0])
        found = _INDEX.search(self.rest)
        return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations.

    Attributes:
      entry: the name of the computation that begins.
      computations: the instructions of each, by name.
    """

    entry: str
    computations: dict[str, dict[str, Instruction]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text of a program."""
        entry = current = ""
        found: dict[str, dict[str, Instruction]] = collections.defaultdict(dict)
        for line in text.splitlines():
            if begun := _COMPUTATION.match(line):
                current = begun[2]
                entry = current if begun[1] else entry
            elif read := _INSTRUCTION.match(line):
                root, name, shape, opcode, rest = read.groups()
                operands = () if opcode in ("parameter", "constant") else tuple(re.findall(r"%([\w.-]+)", _inner(rest)))
                found[current][name] = Instruction(current, name, shape, opcode, operands, rest, bool(root))
        return cls(entry, dict(found))

    def instructions(self, computation: str) -> Iterator[Instruction]:
        """Yields the instructions of a computation in their order."""
        yield from self.computations.get(computation, {}).values()

    def fused(self, computation: str) -> Iterator[str]:
        """Yields the computations that the fusions of a computation make of several instructions."""
        for instruction in self.instructions(computation):
            if instruction.opcode == "fusion":
                yield from instruction.called

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs in the program."""
        counted: dict[str, int] = collections.defaultdict(int)

        def add(computation: str, times: int) -> None:
            counted[computation] += times
            for instruction in self.instructions(computation):
                for name in instruction.called:
                    add(name, times * self._turns(instruction))

        add(self.entry, 1)
        return dict(counted)

    def _turns(self, instruction: Instruction) -> int:
        """How often a loop turns: as XLA states it, or else the one number with which its condition compares."""
        if instruction.opcode != "while":
            return 1
        if stated := _TRIPS.search(instruction.rest):
            return int(stated[1])
        condition = _CONDITION.search(instruction.rest)
        constants = [
            int(each.rest.split(")")[0])
            for each in self.instructions(condition[1] if condition else "")
            if each.opcode == "constant" and each.shape.startswith("s32[]")
        ]
        return constants[0] if len(constants) == 1 else 1

    @functools.cached_property
    def _uses(self) -> dict[tuple[str, str], list[tuple[Instruction, int]]]:
        found: dict[tuple[str, str], list[tuple[Instruction, int]]] = collections.defaultdict(list)
        for computation in self.computations.values():
            for instruction in computation.values():
                for number, operand in enumerate(instruction.operands):
                    found[instruction.computation, operand].append((instruction, number))
        return found

    @functools.cached_property
    def _callers(self) -> dict[str, list[Instruction]]:
        found: dict[str, list[Instruction]] = collections.defaultdict(list)
        for computation in self.computations.values():
            for instruction in computation.values():
                for name in instruction.called:
                    found[name].append(instruction)
        return found

    def part_used(self, instruction: Instruction, part: int | None = None) -> float:
        """Returns the largest part of a result that any use of it reads: below 1 if all uses take slices of it.

        Args:
          instruction: the result's.
          part: the number of an array, if the result is a tuple.
        """
        if instruction.is_root:
            if not self._is_fused(instruction.computation):
                return 1.0
            return max((self.part_used(caller, part) for caller in self._callers[instruction.computation]), default=1.0)
        largest = 0.0
        for use, number in self._uses[instruction.computation, instruction.name]:
            if use.opcode == "get-tuple-element" and part is not None:
                largest = max(largest, self.part_used(use) if use.index == part else 0.0)
            elif use.opcode in ("dynamic-slice", "slice") and number == 0:
                largest = max(largest, elements(use.shape) / elements(instruction.shape))
            elif use.opcode in _SAME_VALUE:
                largest = max(largest, self.part_used(use))
            elif use.opcode == "fusion":
                largest = max(largest, self.part_used(self._parameter(use.called[0], number)))
            else:
                return 1.0
        return largest or 1.0

    def is_written_into_zeros(self, instruction: Instruction, operand: str) -> bool:
        """Whether an operand is a constant array into which a part was written (`dynamic-update-slice`)."""
        found = self._source(instruction.computation, operand)
        return (
            found is not None
            and found.opcode == "dynamic-update-slice"
            and (base := self._source(found.computation, found.operands[0])) is not None
            and (base.opcode == "constant" or (base.opcode == "broadcast" and self._is_constant(base)))
        )

    def _is_constant(self, broadcast: Instruction) -> bool:
        found = self._source(broadcast.computation, broadcast.operands[0])
        return found is not None and found.opcode == "constant"

    def _source(self, computation: str, name: str, part: int | None = None) -> Instruction | None:
        """Returns the instruction that made a value, through copies and the borders of fusions; None if unknown."""
        made = self.computations.get(computation, {}).get(name)
        if made is None:
            return None
        if made.opcode in _SAME_VALUE:
            return self._source(computation, made.operands[0])
        if made.opcode == "get-tuple-element":
            return self._source(computation, made.operands[0], made.index)
        if made.opcode == "fusion":
            root = next(each for each in self.instructions(made.called[0]) if each.is_root)
            return self._source(root.computation, root.name, part)
        if made.opcode == "tuple" and part is not None:
            return self._source(computation, made.operands[part])
        if made.opcode == "parameter" and self._is_fused(computation):
            (caller,) = self._callers[computation]
            return self._source(caller.computation, caller.operands[made.index])
        return made

    def _is_fused(self, computation: str) -> bool:
        callers = self._callers[computation]
        return len(callers) == 1 and callers[0].opcode == "fusion"

    def _parameter(self, computation: str, number: int) -> Instruction:
        return next(e for e in self.instructions(computation) if e.opcode == "parameter" and e.index == number)


def elements(shape: str) -> int:
    """Returns the number of elements of the first array of a shape."""
    found = _ARRAY.search(shape)
    return _size(found[2]) if found else 1


def sizes(shape: str) -> list[int]:
    """Returns the bytes of each array of a shape."""
    return [_size(dimensions) * _bits(dtype) // 8 for dtype, dimensions in _ARRAY.findall(shape)]


def _size(dimensions: str) -> int:
    return math.prod(int(d) for d in dimensions.split(",") if d)


def _bits(dtype: str) -> int:
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 8


def _inner(rest: str) -> str:
    """Returns the text of the operands: up to the parenthesis that closes them."""
    depth = 1
    for place, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return rest[:place]
    return rest
