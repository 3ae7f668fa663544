"""Measures the training step of a config on random tokens: step time, tokens per second, MFU, memory, compile time.

    python -m launch.bench --config=configs/shakespeare_char_gpu.py
    python -m launch.bench --config=configs/quickstart.py --set model.remat=dots --steps=50 --json

No text is read and nothing is written. The step is that of launch.train, and --config, --set and --mesh mean what they
mean there. The time of a step is the median over --steps, from the end of one step to the end of the next, after
--warmup steps; the range beside it has the quartiles. Two batches of random tokens take turns, each row one document
without padding.

MFU is the share of the devices' published peak (dense, in the format of model.precision.compute) that the model's own
operations take: recomputation counts as nothing, and a causal pair of positions counts once (model/cost.py). No peak is
known of a CPU. Memory is that of one device, as the compiler plans it, and as the device measured it, if it does.
"""

import contextlib
import sys

from absl import flags

from launch.command import cli, streams
from model.errors import UserError

CONFIG = cli.define_path("config", None, "The experiment: a Python file that assigns `experiment`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field: path.to.field=value. May be given many times.")
MESH = cli.define_mesh()
STEPS = flags.DEFINE_integer("steps", 20, "The number of steps to measure.", lower_bound=1)
WARMUP = flags.DEFINE_integer("warmup", 3, "The number of steps before them.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: list[str]) -> int:
    """Reads the flags and measures."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --config=configs/quickstart.py")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    with contextlib.redirect_stdout(sys.stderr):  # where the flags of the compiler are printed
        cli.prepare_jax(xla_flags=True)
    from train.speed import measure
    from train.terminal.progress import Progress

    experiment = cli.experiment_from(CONFIG.value, SET.value, cli.mesh_from_flag(MESH))
    with Progress("measuring, steps", STEPS.value + WARMUP.value, enabled=not JSON.value) as progress:
        speed = measure(experiment, STEPS.value, WARMUP.value, progress.update)
    given = {"config": CONFIG.value, "set": SET.value}
    print(streams.as_json(speed.as_json() | given) if JSON.value else "\n".join(speed.lines()))
    return 0


if __name__ == "__main__":
    cli.run(main, prints_result=True)
