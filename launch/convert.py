"""Reads published weights into a run folder, and writes a run as published weights.

    python -m launch.convert --from=models/Llama-3.2-1B --run=runs/llama-1b
    python -m launch.convert --run=runs/llama-1b --to=models/mine

Quantised weights (fp8, MXFP4 and others, see train/conversion/README.md) become the format of the run's parameters, and
are written back in it. --from and --to take a Hugging Face folder: config.json, safetensors files, a tokenizer.json or
tokenizer.model. The run folder that is read from it works with launch.evaluate and launch.generate, and a config with
`training=Training(init_from="runs/llama-1b", ...)` trains it further. Written back, its files are the same byte for
byte, or hold the run's present weights. A run that was not read from such a folder is written with --like, a
config.json that describes its model or the name of a published model, or with --family. Only the parameters of a
checkpoint are written; damage of its optimizer state is noticed only when the run is trained further.

    python -m launch.convert --run=runs/mine --to=models/mine --like=models/Qwen3-0.6B/config.json

A GGUF file of llama.cpp is read like a folder, if its architecture is llama (`pip install 'cairn-lm[gguf]'`); its
numbers, Q8_0, Q4_K and the others too, become the run's format:

    python -m launch.convert --from=models/llama-3.2-1b-q8_0.gguf --run=runs/llama-1b --parameters=bfloat16

With --quantize the run folder that is written has matrices of 8 or 4 bits, for inference; --to is then a run folder:

    python -m launch.convert --from=models/Llama-3.2-1B --run=runs/llama-1b-int8 --quantize=int8
    python -m launch.convert --run=runs/mine --to=runs/mine-int4 --quantize=int4:64

An adapter in the format of the library peft (adapter_config.json, adapter_model.safetensors) is read beside the run of
its model, and the adapters of a run are written so; --merge writes a run folder without adapters that computes the
same:

    python -m launch.convert --from=models/adapter --base=runs/llama-1b --run=runs/llama-1b-chat
    python -m launch.convert --run=runs/llama-1b-chat --to=models/my-adapter
    python -m launch.convert --run=runs/llama-1b-chat --to=runs/llama-1b-merged --merge
"""

import pathlib
import sys
from typing import TYPE_CHECKING, cast

from absl import flags

from launch.command import cli
from model.errors import UserError
from train.files.paths import AnyPath, local_path, user_path
from train.files.remote import local_copy

if TYPE_CHECKING:
    from train.experiment import Experiment

FROM = cli.define_path("from", None, "The Hugging Face folder to read, or a GGUF file of a LLaMA.")
TO = cli.define_path(
    "to", None, "The Hugging Face folder to write, or with --quantize the run folder; it must not exist."
)
RUN = cli.define_path("run", None, "The run folder to write or to read.")
PARAMETERS = flags.DEFINE_enum(
    "parameters",
    None,
    ["float32", "bfloat16"],
    "With --from: the format of parameters; when not given, the smallest that holds the published ones exactly, and "
    "for quantised ones that of config.json.",
)
COMPUTE = flags.DEFINE_enum(
    "compute",
    None,
    ["float32", "bfloat16"],
    "With --from: the format of its matrix products; that of its parameters when not given.",
)
CONTEXT_LENGTH = flags.DEFINE_integer(
    "context_length",
    None,
    "With --from: the most tokens of a sequence; what config.json says when not given, and "
    "always where positions are learned.",
)
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "With --to: latest (as when not given), best, or a step.")
LIKE = cli.define_path(
    "like",
    None,
    "With --to, for a run that was trained here from nothing: a config.json that describes its model, or the name of a "
    "published model such as qwen3-0.6b; the vocabulary and the context length are the run's.",
)
FAMILY = flags.DEFINE_string(
    "family", None, "With --to, instead of --like: a family that makes a config.json from a model (llama)."
)
ACCEPT = flags.DEFINE_multi_string(
    "accept",
    [],
    "With --from or --like: a key of config.json that is refused, and that is read as if the file did not have it "
    "(rope_scaling.factor): right only if the model computes the same without it. Give the flag once for each key; the "
    "run folder records them.",
)
TOKENIZER = cli.define_path(
    "tokenizer", None, "With --from=FILE.gguf: a tokenizer.json or tokenizer.model in place of the file's own."
)
QUANTIZE = flags.DEFINE_string(
    "quantize",
    None,
    "Writes a run folder whose matrices are quantised: int8, int4 or fp8, and after a colon how many inputs share a "
    "scale (int4:32 to int4:128); without it int4 takes 64 and the others all inputs. Such a run is not trained.",
)
ACTIVATIONS = flags.DEFINE_enum(
    "activations",
    None,
    ["compute", "int8"],
    "With --quantize=int8 or int4: int8 rounds the activations of each token too, and multiplies integers.",
)
BASE = cli.define_path("base", None, "With --from, for an adapter: the run folder of its model.")
MERGE = flags.DEFINE_bool("merge", False, "With --to: writes a run folder whose matrices are merged with its adapters.")
MESH = cli.define_mesh()


def main(argv: list[str]) -> int:
    """Reads the flags and converts."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --run=runs/llama")
    if RUN.value is None:
        raise UserError("--run is missing: which run folder to write or to read?")
    source, target = FROM.value, TO.value
    if (source is None) == (target is None):
        raise UserError("give either --from=FOLDER, to read it into --run, or --to=FOLDER, to write --run there")
    adapter = BASE.value is not None
    of_base = () if adapter else (CHECKPOINT, FAMILY, LIKE)
    of_model = (PARAMETERS, COMPUTE, CONTEXT_LENGTH, QUANTIZE) if adapter else ()
    for flag in (*of_base, *of_model) if source else (PARAMETERS, COMPUTE, CONTEXT_LENGTH, BASE):
        if flag.value is not None:
            given = "base" if adapter and source else "from" if source else "to"
            raise UserError(f"--{flag.name} has no effect with --{given}; leave it out")
    if TOKENIZER.value is not None and not (source and not adapter and is_gguf(user_path(source))):
        raise UserError("--tokenizer goes with --from=FILE.gguf; a Hugging Face folder brings its own; leave it out")
    if LIKE.value is not None and FAMILY.value is not None:
        raise UserError(f"--like={LIKE.value} names the family too; leave out --family={FAMILY.value}")
    if ACCEPT.value and (not source or adapter) and LIKE.value is None:
        raise UserError("--accept is about the config.json of --from or --like; leave it out")
    if ACTIVATIONS.value is not None and QUANTIZE.value is None:
        raise UserError("--activations is about quantised weights; give --quantize=int8, or leave it out")
    if MERGE.value and (source or QUANTIZE.value is not None):
        raise UserError("--merge needs --run and --to, and no --quantize; quantise the run that it writes")
    if target and (MERGE.value or QUANTIZE.value is not None):
        made = "merge" if MERGE.value else "quantize"
        for flag in (FAMILY, LIKE, ACCEPT):
            if flag.value not in (None, []):
                raise UserError(f"--{flag.name} has no effect with --{made}, which writes a run folder; leave it out")
    cli.prepare_jax(keep_memory=False)
    if target and QUANTIZE.value is not None:
        return _quantize(user_path(RUN.value), local_path(target, "a run folder that is written"))
    if source and BASE.value is not None:
        return _read_adapter(user_path(source), user_path(BASE.value), local_path(RUN.value, "a run that is written"))
    if source:
        return _read(user_path(source), local_path(RUN.value, "a run folder that is written"))
    if MERGE.value:
        return _merge(user_path(RUN.value), local_path(target or "", "a run folder that is written"))
    return _write(user_path(RUN.value), local_path(target or "", "a folder of weights that is written"))


def is_gguf(source: AnyPath) -> bool:
    """Whether a source is a file of llama.cpp, by its name."""
    return source.name.lower().endswith(".gguf")


def _read(source: AnyPath, run: pathlib.Path) -> int:
    from model.parameters.precision import Dtype
    from train.conversion.gguf_file import unpacked
    from train.conversion.quantizing import parse_option
    from train.conversion.reading import read_published
    from train.data.tokenizers.interface import load_tokenizer

    if is_gguf(source):
        tokenizer = None if TOKENIZER.value is None else local_copy(user_path(TOKENIZER.value))
        with unpacked(local_copy(source), run, tokenizer) as folder:
            return _read(folder, run)
    experiment = read_published(
        source,
        run,
        parameter_dtype=cast(Dtype | None, PARAMETERS.value),
        compute_dtype=cast(Dtype | None, COMPUTE.value),
        context_length=CONTEXT_LENGTH.value,
        mesh=cli.mesh_from_flag(MESH),
        accept=ACCEPT.value,
        weights=None if QUANTIZE.value is None else parse_option(QUANTIZE.value, ACTIVATIONS.value),
    )
    _print_written(run, experiment)
    if experiment.text.tokenizer is not None and (warning := load_tokenizer(run / "data").warning()) is not None:
        print(f"WARNING: {warning}", file=sys.stderr)
    if experiment.text.tokenizer is None:
        print("WARNING: no tokenizer.json or tokenizer.model there: the run can be trained further and written back,")
        print("         but launch.evaluate and launch.generate need a tokenizer")
    return 0


def _quantize(run: AnyPath, target: pathlib.Path) -> int:
    from train.conversion.quantizing import parse_option, quantize_run

    option = parse_option(QUANTIZE.value or "", ACTIVATIONS.value)
    mesh = cli.mesh_from_flag(MESH)
    _print_written(target, quantize_run(run, target, option, checkpoint=CHECKPOINT.value or "latest", mesh=mesh))
    return 0


def _read_adapter(source: AnyPath, base: AnyPath, run: pathlib.Path) -> int:
    from train.conversion.adapters import read_adapter

    chosen = {"checkpoint": CHECKPOINT.value or "latest", "family": FAMILY.value, "like": LIKE.value}
    mesh = cli.mesh_from_flag(MESH)
    _print_written(run, read_adapter(source, base, run, mesh=mesh, accept=ACCEPT.value, **chosen))
    return 0


def _merge(run: AnyPath, target: pathlib.Path) -> int:
    from train.conversion.adapters import merge_run

    checkpoint, mesh = CHECKPOINT.value or "latest", cli.mesh_from_flag(MESH)
    _print_written(target, merge_run(run, target, checkpoint=checkpoint, mesh=mesh))
    return 0


def _print_written(run: pathlib.Path, experiment: "Experiment") -> None:
    from model.cost import count_parameters

    precision = experiment.model.precision
    as_text = (
        precision.parameters if precision.weights is None else f"{precision.parameters} and {precision.weights.text}"
    )
    cli.print_escaped(f"{run}: {count_parameters(experiment.model).total:,} parameters as {as_text}")


def _write(run: AnyPath, target: pathlib.Path) -> int:
    from train import experiment as experiments
    from train.conversion.adapters import write_adapter
    from train.conversion.writing import write_published
    from train.run.conversion_record import written_notes

    if experiments.load(run).model.adapters is not None:
        chosen = {"checkpoint": CHECKPOINT.value or "latest", "family": FAMILY.value, "like": LIKE.value}
        write_adapter(run, target, mesh=cli.mesh_from_flag(MESH), accept=ACCEPT.value, **chosen)
        cli.print_escaped(f"{target}: the adapters written")
        return 0
    changed_values = write_published(
        run,
        target,
        checkpoint=CHECKPOINT.value or "latest",
        family=FAMILY.value,
        like=LIKE.value,
        mesh=cli.mesh_from_flag(MESH),
        accept=ACCEPT.value,
    )
    cli.print_escaped(f"{target}: written")
    for note in written_notes(run):
        cli.print_escaped(note)
    if changed_values:
        listed = ", ".join(f"{key}={value}" for key, value in changed_values.items())
        cli.print_escaped(f"config.json is that of --like={LIKE.value}, with this run's {listed}")
    return 0


if __name__ == "__main__":
    cli.run(main)
