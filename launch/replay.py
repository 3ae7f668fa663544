"""Does a step of a run again, to the bit: loss by document, gradient norms by layer, the tokens of the worst rows.

    python -m launch.replay --run=runs/quickstart
    python -m launch.replay --run=runs/quickstart --step=4012
    python -m launch.replay --run=runs/quickstart --step=4012 --rows=8 --json

Without --step it lists the spikes of the run: steps whose loss or gradient norm was far above the steps before
(`spikes` in the config says how far). --step takes any step, a spike or not. The steps from the last checkpoint before
it run again, or all of them where there is none, and nothing is written. On the same devices, with the same code and
packages, the loss is the recorded one to the bit; elsewhere the command says at which step they part.

Exit status: 0 if the step is the recorded one, or the run has recorded nothing of it; 3 if it is not.
"""

import contextlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from launch.command import cli, streams
from model.errors import UserError
from train.files.paths import user_path

if TYPE_CHECKING:
    from train.files.paths import AnyPath
    from train.lab.replay import Replay

RUN = cli.define_path("run", None, "The run folder.")
STEP = flags.DEFINE_integer("step", None, "The step, from 1; the spikes of the run are listed when not given.")
ROWS = flags.DEFINE_integer("rows", 2, "The number of rows whose tokens are printed.", lower_bound=0)
SHOWN = flags.DEFINE_integer("shown", 10, "Lines of each table, and tokens of each row.", lower_bound=1)
MESH = cli.define_mesh()
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of tables.")

ROW_CHARACTERS = 300


def main(argv: list[str]) -> int:
    """Reads the flags and does the step again."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --run=runs/quickstart")
    if RUN.value is None:
        raise UserError("--run is missing: a step of which run? Try --run=runs/quickstart")
    run = user_path(RUN.value)
    if STEP.value is None:
        return _list_spikes(run)
    with contextlib.redirect_stdout(sys.stderr):  # where the flags of the compiler are printed
        cli.prepare_jax(xla_flags=True)
    from train.lab.replay import replay
    from train.terminal.progress import Progress

    with Progress("running, steps", enabled=not JSON.value) as progress:
        found = replay(
            run, STEP.value, mesh=cli.mesh_from_flag(MESH), worst_rows=ROWS.value, on_progress=progress.update
        )
    if JSON.value:
        from train.run.metrics import with_words

        print(streams.as_json(with_words(found.as_json())))
    else:
        print("\n".join(lines(found, SHOWN.value)))
    return cli.EXIT_DIFFERENT if found.is_equal is False else 0


def _list_spikes(run: "AnyPath") -> int:
    from train import experiment as experiments
    from train.hooks.spikes import describe_note, noted_steps, read_note

    experiments.load(run)
    notes = [note for step in noted_steps(run) if (note := read_note(run, step)) is not None]
    if JSON.value:
        print(streams.as_json({"run": str(run), "spikes": notes}))
    elif not notes:
        print("no spikes were noted; --step=N does any step again")
    for note in () if JSON.value else notes:
        print(f"step {note['step']:>9,}  {describe_note(note)}")
    return 0


def lines(found: "Replay", shown: int) -> list[str]:
    """A replay as lines for the terminal; `shown` is the length of each table."""
    from train.lab.replay import worst_targets
    from train.terminal.formatting import escape_unprintable, format_fixed, format_number

    start = f"checkpoint {found.restored}" if found.restored else "the initial state"
    said = [f"step {found.step:,} (batch {found.step - 1:,}) of {escape_unprintable(found.run)}, from {start}"]
    said.append(f"  loss {found.loss!r}, gradient norm {found.grad_norm!r}")
    said.append(f"  {_verdict(found)}")
    said += ["", "  gradient norm by layer, before clipping; the parameter with the largest"]
    for layer in found.layers[:shown]:
        largest = f"{layer.parameter} {format_number(layer.parameter_norm)}"
        said.append(f"  {layer.place:<14}{format_number(layer.norm):>12}  {largest}")
    without = ", without dropout" if found.dropout else ""
    said += ["", f"  loss by document{without}: {len(found.documents):,} parts of documents"]
    for document in found.documents[:shown]:
        columns = "{}:{}".format(*document.columns)
        said.append(
            f"  {format_fixed(document.loss):>9}  row {document.row:>4} {columns:>11}  "
            f"{escape_unprintable(document.name)}  {document.text!r}"
        )
    for row in found.rows:
        text = escape_unprintable("".join(row.targets))
        cut = "..." if len(text) > ROW_CHARACTERS else ""
        said += ["", f"  row {row.row}, loss {format_fixed(row.loss)}: {text[:ROW_CHARACTERS]}{cut}"]
        for column in worst_targets(row, shown):
            said.append(f"  {format_fixed(row.losses[column]):>9}  column {column:>6}  {row.targets[column]!r}")
    return said


def _verdict(found: "Replay") -> str:
    if not found.compared:
        return "the run has recorded no step up to this one, so there is nothing to compare it with"
    if found.first_difference is not None:
        values = ", ".join(f"{name.replace('_', ' ')} {value!r}" for name, value in (found.recorded or {}).items())
        return (
            f"NOT the recorded run: they part at step {found.first_difference:,}"
            + (f"; recorded were {values}" if values else "")
            + ". Other devices, packages or code round otherwise, and so do runs that train jointly (launch.sweep "
            "--joint): environment.json says which the run had"
        )
    own = "no values of this step are recorded" if found.recorded is None else "the recorded values, to the bit"
    earlier = found.compared - (found.recorded is not None)
    return own + (f"; the {earlier:,} recorded steps before it are the same too" if earlier else "")


if __name__ == "__main__":
    cli.run(main, prints_result=True)
