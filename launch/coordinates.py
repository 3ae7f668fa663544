"""The coordinate check: activations after a few steps against width and depth, under a config's parametrisation.

    python -m launch.coordinates --config=configs/shakespeare_char.py --widths=64,128,256,512
    python -m launch.coordinates --config=configs/shakespeare_char.py --depths=2,4,8,16 --page=coordinates.html \
        --set='model.parametrization=CompleteP(base_width=128, base_layers=4)'

Models of these widths (in all proportions: heads or their width, feed-forwards, ranks) or depths take --steps steps on
one batch of random tokens. Under muP the root mean square of every activation keeps its size: its slope against width
is near 0. Beside the config's parametrisation the standard one is measured; if the config has that, CompleteP with the
config's model as its base. No text is read, and nothing but --page is written.

Exit status: 0 if the config's parametrisation is flat, 3 if it is not, 2 for a mistake in the input.
"""

from absl import flags

from launch.command import cli, streams
from model.errors import UserError

CONFIG = cli.define_path("config", None, "The experiment: a Python file that assigns `experiment`.")
SET = flags.DEFINE_multi_string("set", [], "Changes one field: path.to.field=value. May be given many times.")
WIDTHS = flags.DEFINE_list("widths", [], "Widths of the model, such as 64,128,256.")
DEPTHS = flags.DEFINE_list("depths", [], "Numbers of layers, such as 2,4,8.")
STEPS = flags.DEFINE_integer("steps", 10, "Updates before activations are measured again.", lower_bound=1)
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the initial parameters.")
RATE = flags.DEFINE_float("rate", None, "The learning rate; not given: the peak of the schedule.", lower_bound=0.0)
ROWS = flags.DEFINE_integer("rows", 4, "Rows of the batch.", lower_bound=1)
LENGTH = flags.DEFINE_integer("length", None, "Tokens of a row; not given: the context, at most 64.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of tables.")
PAGE = cli.define_path("page", None, "An HTML file for the tables and plots.")


def main(argv: list[str]) -> int:
    """Reads the flags, measures and judges."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --widths=64,128,256")
    if CONFIG.value is None:
        raise UserError("--config is missing: which experiment? Try --config=configs/quickstart.py")
    sizes = {flag.name: _numbers(flag) for flag in (WIDTHS, DEPTHS, SEEDS)}
    page = cli.page_path("page", PAGE.value)
    cli.prepare_jax()
    from train.files.files import replace_file
    from train.lab.coordinates.check import check
    from train.lab.coordinates.words import as_json, table

    experiment = cli.experiment_from(CONFIG.value, SET.value, None)
    sweeps = check(
        experiment,
        **sizes,
        steps=STEPS.value,
        rate=RATE.value,
        rows=ROWS.value,
        length=LENGTH.value,
        say=(lambda line: None) if JSON.value else cli.print_escaped,
    )
    rate = experiment.schedule.peak if RATE.value is None else RATE.value
    given = {"config": CONFIG.value, "set": SET.value, "steps": STEPS.value, "seeds": sizes["seeds"], "rate": rate}
    print(streams.as_json(given | as_json(sweeps)) if JSON.value else "\n\n".join(["", *map(table, sweeps)]))
    if page is not None:
        from train.lab.coordinates.page import render

        about = f"{CONFIG.value} \u00b7 {STEPS.value} steps at rate {rate:g} \u00b7 seeds {', '.join(SEEDS.value)}"
        replace_file(page, render(sweeps, about).encode("utf-8"))
        if not JSON.value:
            cli.print_escaped(f"\npage: {page}")
    own = sweeps[0].parametrization
    return 0 if all(sweep.flat for sweep in sweeps if sweep.parametrization == own) else cli.EXIT_DIFFERENT


def _numbers(flag: flags.FlagHolder[list[str]]) -> list[int]:
    """The whole numbers of a flag."""
    try:
        return [int(text) for text in flag.value]
    except ValueError:
        given = ",".join(flag.value)
        raise UserError(f"--{flag.name}={given}: expected whole numbers, such as --{flag.name}=2,4,8") from None


if __name__ == "__main__":
    cli.run(main, prints_result=True)
