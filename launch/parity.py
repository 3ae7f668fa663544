"""Do two configs compute the same? The same parameters and the same batch through both, layer by layer.

    python -m launch.parity --a=configs/quickstart.py --set_b model.scan_layers=True
    python -m launch.parity --a=configs/quickstart.py --set_b 'model.kernels.attention=("plain",)' --documents=3
    python -m launch.parity --a=configs/quickstart.py --b=configs/quickstart.py --set_b model.precision.compute=bfloat16

For two configs that differ in a kernel, the mesh, scanned layers, a number format or rematerialisation. Without --b it
is the config of --a, with --set_b and --mesh_b. No text is read: the batch is random tokens. Parameters are initial
values and noise (--noise), because initial values hide mistakes: small queries and keys hide the positions, and a
matrix that begins at 0 hides its layer. Dropout is left out.

It prints the largest difference of the residual stream after each layer, of the logits, and of the gradient of each
layer, in units of the deviation of the numbers of --a, and the first layer beyond the bound: 1,024 units in the last
place for float32, 128 for formats of 16 bits, or --tolerance; an eighth of it for the root mean square of the
differences. Formats of 16 bits hide small mistakes, so compare in float32 first. Different parameters are refused.

Exit status: 0 if no difference is beyond the bound, 3 if one is.
"""

from typing import TYPE_CHECKING

from absl import flags

from launch.command import cli, streams
from model.errors import UserError

if TYPE_CHECKING:
    from train.experiment import Experiment
    from train.lab.parity.parity import Parity, TensorDifference

A = cli.define_path("a", None, "The first experiment: a Python file that assigns `experiment`.")
B = cli.define_path("b", None, "The second experiment; that of --a when not given.")
SET_A = flags.DEFINE_multi_string("set_a", [], "Changes a field of --a: path.to.field=value. May be given many times.")
SET_B = flags.DEFINE_multi_string("set_b", [], "Changes a field of --b, likewise.")
MESH_A = flags.DEFINE_string("mesh_a", None, "The mesh of --a, such as fsdp=4; its config's when not given.")
MESH_B = flags.DEFINE_string("mesh_b", None, "The mesh of --b, likewise.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Rows; the fewest that both meshes divide when not given.")
SEQUENCE_LENGTH = flags.DEFINE_integer("sequence_length", None, "Tokens of a row; the shorter of both when not given.")
DOCUMENTS = flags.DEFINE_integer(
    "documents", 1, "Documents packed into each row; with padding from 2 on.", lower_bound=1
)
SEED = flags.DEFINE_integer("seed", 0, "The seed of parameters and tokens.", lower_bound=0)
NOISE = flags.DEFINE_float("noise", 1.0, "The noise on every matrix, in 1 / sqrt(inputs).", lower_bound=0.0)
TOLERANCE = flags.DEFINE_float("tolerance", None, "The bound in deviations, instead of that of the format.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of tables.")


def main(argv: list[str]) -> int:
    """Reads the flags and compares."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --a=configs/quickstart.py")
    if A.value is None:
        raise UserError("--a is missing: which config? Try --a=configs/quickstart.py --set_b model.scan_layers=True")
    for flag in (BATCH_SIZE, SEQUENCE_LENGTH):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{flag.name} must be at least 1, got {flag.value}")
    if TOLERANCE.value is not None and not TOLERANCE.value >= 0:
        raise UserError(f"--tolerance must be 0 or more, got {TOLERANCE.value}")
    cli.prepare_jax()
    from train.lab.parity.inputs import Inputs
    from train.lab.parity.parity import compare_configs
    from train.parallel.mesh import parse_mesh

    def experiment(side: str, config: str, settings: list[str], mesh: str | None) -> "Experiment":
        """The config of a side; a mistake names the flags of that side."""
        try:
            return cli.experiment_from(config, settings, None if mesh is None else parse_mesh(mesh))
        except UserError as error:
            text = str(error).replace("--mesh=", f"--mesh_{side}=").replace("--set ", f"--set_{side} ")
            raise UserError(text) from None

    a = experiment("a", A.value, SET_A.value, MESH_A.value)
    b = experiment("b", B.value or A.value, SET_B.value, MESH_B.value)
    inputs = Inputs(
        batch_size=BATCH_SIZE.value,
        sequence_length=SEQUENCE_LENGTH.value,
        documents=DOCUMENTS.value,
        seed=SEED.value,
        noise=NOISE.value,
    )
    found = compare_configs(a, b, inputs, TOLERANCE.value)
    if JSON.value:
        from train.run.metrics import with_words

        print(streams.as_json(with_words(found.as_json())))
    else:
        print("\n".join(lines(found)))
    return 0 if found.agree else cli.EXIT_DIFFERENT


def lines(found: "Parity") -> list[str]:
    """A comparison as lines for the terminal."""
    from train.terminal.formatting import format_count

    rows, tokens = found.shape
    said = [f"{rows:,} rows of {tokens:,} tokens; losses {found.losses[0]:.7g} and {found.losses[1]:.7g}"]
    for name, kernels in zip("ab", found.kernels, strict=True):
        said += [f"  {name}: kernel for {line}" for line in kernels]
    said += [
        "",
        f"  {'largest and typical difference, in deviations':<52}bound {found.bound:.2g}: {found.bound_in_words}",
    ]
    said += [_line(found, difference) for difference in found.stream]
    said += ["", "  of gradients: the parameter that differs most"]
    said += [_line(found, difference) for difference in found.gradients]
    said.append("")
    if found.agree:
        count = format_count(len(found.stream) + len(found.gradients))
        return [*said, f"they agree: none of {count} differences is beyond the bound"]
    if found.first is not None:
        said.append(f"they DIFFER: first at {found.first.place} ({found.first.tensor})")
    elif found.first_gradient is not None:
        place, tensor = found.first_gradient.place, found.first_gradient.tensor
        said.append(f"they DIFFER in the gradient alone: first, from the last layer back, at {place} ({tensor})")
    return said


def _line(found: "Parity", difference: "TensorDifference") -> str:
    mark = "  <- beyond the bound" if found.is_beyond(difference) else ""
    values = f"{difference.largest:>10.2e}{difference.typical:>11.2e}"
    return f"  {difference.place:<14}{difference.tensor:<38}{values}{mark}"


if __name__ == "__main__":
    cli.run(main, prints_result=True)
