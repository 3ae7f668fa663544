"""The plan of inference on a cluster in words and as JSON: memory, rows and tokens that fit, bounds on the speed."""

import dataclasses
from typing import Any

from model.config import ModelConfig
from model.errors import UserError
from train.parallel.planner.serving import (
    FORMATS,
    MANY_TOKENS,
    Devices,
    InFormat,
    Step,
    in_format,
    kinds_of_caches,
    row_bytes,
    token_bytes,
)
from train.parallel.planner.words import format_size
from train.terminal.formatting import format_count, format_counted

BATCHES = (1, 8, 64)
ASSUMPTIONS = (
    "matrices of layers and of logits have the format; tables of tokens, routers, norms and the caches keep theirs; 8 "
    "and 4 bits are multiplied as bfloat16",
    "a step reads weights and caches once, at the data sheet's rates; the largest of the times for memory, operations "
    "and weights that devices send each other bounds it. Other transfers, and work that does not overlap, come on top: "
    "published decoders reach 0.77 to 0.86 of the bound",
    "a prompt is read at the peak of the chip",
)
EVENLY = (
    "without --mesh, weights and caches are split evenly over the devices; a model with fewer key and value heads than "
    "devices keeps copies of caches, unless its rows are split too"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServePlan:
    """A plan of inference.

    Attributes:
      devices: the cluster and its mesh.
      rows, context: the load whose fit is asked for.
      kinds: the layers and bytes of a row for each kind of cache.
      row_bytes: of the caches of one row of the context, whole.
      token_bytes: the bytes that its last token added.
      formats: the numbers for each format of the weights.
    """

    devices: Devices
    rows: int
    context: int
    kinds: dict[str, tuple[int, int]]
    row_bytes: int
    token_bytes: int
    formats: tuple[InFormat, ...]

    @property
    def fits(self) -> bool:
        """Whether rows of the context fit with weights in at least one format."""
        return any(each.needed <= self.devices.memory for each in self.formats)

    def as_json(self) -> dict[str, Any]:
        """Returns all values, for JSON; sizes are in bytes of a device, unless they are of a row."""
        devices = self.devices
        return {
            "topology": str(devices.cluster),
            "devices": devices.count,
            "mesh": devices.mesh_name,
            "memory": devices.memory,
            "memory_rate": devices.memory_rate,
            "rows": self.rows,
            "context": self.context,
            "caches_of_a_row": {kind: {"layers": n, "bytes": size} for kind, (n, size) in self.kinds.items()},
            "row_bytes": self.row_bytes,
            "token_bytes": self.token_bytes,
            "fits": self.fits,
            "formats": {each.number_format: self._format_json(each) for each in self.formats},
        }

    def _format_json(self, each: InFormat) -> dict[str, Any]:
        return {
            "weights": each.stored,
            "needed": each.needed,
            "fits": each.needed <= self.devices.memory,
            "most_rows": each.most_rows,
            "most_tokens": each.most_rows * self.context,
            "longest_context": each.longest,
            "prefill_seconds": each.prefill_seconds,
            "prefill_tokens_per_second": each.prefill_rate,
            "decode": [step.as_json() for step in each.steps],
        }

    def lines(self) -> list[str]:
        """Returns the plan as lines for the terminal."""
        devices = self.devices
        mesh = "split evenly" if devices.option is None else f"mesh {devices.mesh_name}"
        lines = [
            f"inference on {devices.cluster}: {devices.cluster.chips:,} chips, {_rows(self.rows)} of {self.context:,} "
            f"tokens, {mesh}",
            "",
            "caches of a row",
            *(f"  {layers:3} layers  {kind:32} {format_size(size):>11}" for kind, (layers, size) in self.kinds.items()),
            f"  {'all':43} {format_size(self.row_bytes):>11}, {format_count(self.token_bytes)}B for one token more",
            "",
            f"{'bytes of a device':18} {'weights':>12} {'with caches':>12} {'of':>12}  verdict",
        ]
        for each in self.formats:
            sizes = (each.stored, each.needed, devices.memory)
            lines.append(
                f"{each.number_format:18} "
                + " ".join(f"{format_size(x):>12}" for x in sizes)
                + f"  {self._verdict(each)}"
            )
        lines += ["", f"bounds on decoding at {self.context:,} tokens a row"]
        for each in self.formats:
            lines += [f"  {each.number_format:10} {_speed(step)}" for step in each.steps]
        lines += ["", f"bounds on reading a prompt of {self.context:,} tokens (prefill)"]
        lines += [
            f"  {each.number_format:10} {1e3 * each.prefill_seconds:,.1f} ms a prompt, "
            f"{format_count(each.prefill_rate)} tokens/s in all"
            for each in self.formats
        ]
        assumptions = ASSUMPTIONS if devices.option is not None else (*ASSUMPTIONS, EVENLY)
        return [*lines, "", "assumptions", *(f"  {line}" for line in assumptions)]

    def _verdict(self, each: InFormat) -> str:
        """Returns whether it fits, and the rows and tokens that would."""
        spare = self.devices.memory - each.needed
        ends = f"{_rows(self.rows)} of " + (
            f"any of {MANY_TOKENS:,} tokens" if each.longest >= MANY_TOKENS else f"{each.longest:,} tokens"
        )
        tokens = each.most_rows * self.context
        found = f"{_rows(each.most_rows)} of {self.context:,} tokens ({tokens:,} tokens), or {ends}"
        if spare >= 0:
            return f"fits; room for {found}"
        if each.most_rows == 0:
            return f"does not fit: {format_size(-spare)} too much"
        return f"does not fit: {format_size(-spare)} too much; {found} would"


def serve_plan(
    config: ModelConfig, devices: Devices, rows: int, context: int, batches: tuple[int, ...] = BATCHES
) -> ServePlan:
    """Plans inference of `rows` rows of `context` tokens on a cluster, and bounds the speed of several numbers of rows.

    It fits if the weights, in one of the formats, and the caches fit; a quantised model has its own format alone.
    Raises UserError for a context that is longer than the model's.
    """
    if not 1 <= context <= config.context_length:
        raise UserError(f"--context={context}: the model reads 1 to {config.context_length:,} tokens")
    batches = tuple(sorted({rows, *batches}))
    return ServePlan(
        devices=devices,
        rows=rows,
        context=context,
        kinds=kinds_of_caches(config, context),
        row_bytes=row_bytes(config, context),
        token_bytes=token_bytes(config, context),
        formats=tuple(
            dataclasses.replace(in_format(config, devices, each, rows, context, batches), number_format=name)
            for name, each in _formats(config).items()
        ),
    )


def _formats(config: ModelConfig) -> dict[str, str]:
    """Returns the format of matrices by name: every one of `FORMATS`, or that of a model that is quantised already."""
    weights, precision = config.precision.weights, config.precision
    if weights is None:
        return {each: each for each in FORMATS}
    return {weights.text: "float32" if "float32" == precision.parameters == precision.compute else "bfloat16"}


def _rows(number: int) -> str:
    return format_counted(number, "row")


def _speed(step: Step) -> str:
    sent = f" and {format_size(step.received)} received" if step.received else ""
    return (
        f"{_rows(step.rows):>9}: {format_size(step.weights)} of weights{sent}, {format_size(step.caches)} of caches a "
        f"step: {1e3 / step.row_rate:,.2f} ms ({step.limit}), {step.row_rate:,.1f} tokens/s a row, "
        f"{step.rows * step.row_rate:,.0f} in all" + ("" if step.fits else "; does not fit")
    )
