"""Measures the training step of a config, or inference with its model, on random tokens.

    python -m launch.bench --config=configs/shakespeare_char_gpu.py
    python -m launch.bench --config=configs/quickstart.py --set model.remat=dots --steps=50 --json
    python -m launch.bench --decode --config=configs/quickstart.py --rows=1,8 --contexts=128
    python -m launch.bench --decode --model=llama-3.1-8b --rows=1,8,64 --contexts=128,1024
    python -m launch.bench --decode --config=configs/quickstart.py --rows=16 --trace=200

No text is read and nothing is written. The step is that of launch.train, and --config, --set and --mesh mean what they
mean there. The time of a step is the median over --steps, from the end of one step to the end of the next, after
--warmup steps; the range beside it has the quartiles. Two batches of random tokens take turns, each row one document
without padding.

MFU is the share of the devices' published peak (dense, in the format of model.precision.compute) that the model's own
operations take: recomputation counts as nothing, and a causal pair of positions counts once (model/cost.py). No peak is
known of a CPU. Memory is that of one device, as the compiler plans it, and as the device measured it, if it does.

--decode measures inference for every pair of --rows and --contexts: prefill and decode tokens a second, the time to the
first token and between tokens, and the share of the memory's bandwidth. That is the bytes that a step reads at least,
the weights and the caches of all rows once, over the median step and the rate of the data sheet; on a CPU that of a
copy. --model is a published model in bfloat16, with random weights. --trace measures, in place of the grid, how the
engine serves so many requests of mixed lengths, and static batches the same; they arrive --per_second, or wait at the
start.
"""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.command import cli, streams
from model.errors import UserError

if TYPE_CHECKING:
    from train.generation.decoding_speed import DecodingSpeed
    from train.generation.decoding_trace import TraceSpeed
    from train.speed import Speed

CONFIG = cli.define_path("config", None, "The experiment: a Python file that assigns `experiment`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field: path.to.field=value. May be given many times.")
MESH = cli.define_mesh()
STEPS = flags.DEFINE_integer("steps", 20, "The number of steps to measure.", lower_bound=1)
WARMUP = flags.DEFINE_integer("warmup", 3, "The number of steps before them.", lower_bound=1)
DECODE = flags.DEFINE_bool("decode", False, "Measures inference: prefill and decoding.")
MODEL = flags.DEFINE_string("model", None, "With --decode: a published model, such as llama-3.1-8b, without a config.")
ROWS = flags.DEFINE_list("rows", ["1", "8"], "With --decode: numbers of rows that decode together.")
CONTEXTS = flags.DEFINE_list("contexts", ["128"], "With --decode: tokens of each prompt.")
TRACE = flags.DEFINE_integer("trace", None, "With --decode: the requests of a trace.", lower_bound=1)
PER_SECOND = flags.DEFINE_float("per_second", None, "With --trace: requests that arrive each second.", lower_bound=1e-6)
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: list[str]) -> int:
    """Reads the flags and measures."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --config=configs/quickstart.py")
    if DECODE.value:
        return _decode()
    for flag in (MODEL, ROWS, CONTEXTS, TRACE, PER_SECOND):
        if flag.present:
            raise UserError(f"--{flag.name} is for --decode; add it, or leave --{flag.name} out")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    with contextlib.redirect_stdout(sys.stderr):  # where the flags of the compiler are printed
        cli.prepare_jax(xla_flags=True)
    from train.speed import measure
    from train.terminal.progress import Progress

    experiment = cli.experiment_from(CONFIG.value, SET.value, cli.mesh_from_flag(MESH))
    with Progress("measuring, steps", STEPS.value + WARMUP.value, enabled=not JSON.value) as progress:
        speed = measure(experiment, STEPS.value, WARMUP.value, progress.update)
    _print(speed, config=CONFIG.value, set=SET.value)
    return 0


def _decode() -> int:
    """Measures inference."""
    if (CONFIG.value is None) == (MODEL.value is None):
        raise UserError("--decode measures one model: give --config=FILE or --model=llama-3.1-8b")
    if SET.value and CONFIG.value is None:
        raise UserError(f"--set={SET.value[0]} changes a field of --config; give it without --model")
    rows, contexts = (cli.numbers_from(flag, "number from 1", "1,8,64") for flag in (ROWS, CONTEXTS))
    if TRACE.value is not None and len(rows) > 1:
        raise UserError(f"--trace has one number of rows; got --rows={','.join(ROWS.value)}, expected --rows=16")
    if PER_SECOND.value is not None and TRACE.value is None:
        raise UserError("--per_second is for --trace; add --trace=200, or leave it out")
    with contextlib.redirect_stdout(sys.stderr):
        cli.prepare_jax(xla_flags=True)
    from train.generation.decoding_speed import measure, random_params
    from train.generation.decoding_trace import measure_trace
    from train.parallel.mesh import Mesh
    from train.parallel.mesh_choice import requested_mesh
    from train.parallel.table import Sharding
    from train.terminal.progress import Progress

    option, table = cli.mesh_from_flag(MESH), Sharding()
    if MODEL.value is not None:
        config = cli.published_in_bfloat16(MODEL.value)
    else:
        experiment = cli.experiment_from(CONFIG.value, SET.value, option)
        config, option, table = experiment.model, experiment.mesh, experiment.sharding
    choice = requested_mesh(config, option or Mesh(), table)
    given = {"config": CONFIG.value, "model": MODEL.value, "set": SET.value}
    if TRACE.value is not None:
        params = random_params(config, choice)
        _print(measure_trace(config, params, choice.layout, rows[0], TRACE.value, PER_SECOND.value), **given)
        return 0
    with Progress("measuring", len(rows) * len(contexts), enabled=not JSON.value) as progress:
        speed = measure(config, choice, rows, contexts, STEPS.value, WARMUP.value, progress.update)
    _print(speed, **given)
    return 0


def _print(speed: "Speed | DecodingSpeed | TraceSpeed", **given: Any) -> None:
    """Prints a speed as a table, or with what was given as JSON."""
    print(streams.as_json(speed.as_json() | given) if JSON.value else "\n".join(speed.lines()))


if __name__ == "__main__":
    cli.run(main, prints_result=True)
