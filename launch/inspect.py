"""Looks inside a model: what its heads attend to, how its stream becomes logits, which activations cause an output.

    python -m launch.inspect
    python -m launch.inspect attention --run=runs/quickstart --text='def main('
    python -m launch.inspect lens --run=runs/quickstart --text='def main(' --tuned
    python -m launch.inspect patch --run=models/gpt2 --text='Paris is in' --corrupt='Rome is in'
    python -m launch.inspect attention --run=runs/transformer_2017 --source='read on' --text='no daer'
    python -m launch.inspect attention --run=models/gpt2 --text_file=letter.txt --layers=0,5,-1 --output=pages/letter

Without an instrument it lists them. --run takes a run folder or a Hugging Face folder, of which no copy is written.
--output gets three files: index.html, a page that needs no network, result.json, and arrays.npz; when not given, they
go to RUN/inspection/INSTRUMENT. Of a text that is too long for a page the first tokens are taken, and a line says so.
For a model with an encoder --text is the target, and --source the source that the encoder reads.

Each instrument is a function too, the module of its row in train/inspection/table.py:
`train.inspection.attention.maps.inspect(load_model("runs/quickstart"), text="def main(")`.
"""

import pathlib
import sys
from typing import Any

from absl import flags

from launch.command import cli
from launch.command.instrument_flags import InstrumentFlags
from model.errors import UserError
from train.files.paths import is_remote, local_path
from train.inspection.table import find, function_of, listing, refuse, taken_by

RUN = cli.define_path("run", None, "The run folder, or a Hugging Face folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Which checkpoint: latest, best, or the number of its step.")
OUTPUT = cli.define_path("output", None, "The folder for the files; RUN/inspection/INSTRUMENT when not given.")
MESH = cli.define_mesh()
OTHERS = InstrumentFlags()


def main(argv: list[str]) -> int:
    """Reads the flags, looks, and writes the files."""
    if len(argv) < 2:
        if RUN.value is not None:
            raise UserError(f"expected an instrument before the flags:\n{listing()}")
        print(f"python -m launch.inspect INSTRUMENT --run=RUN ...\n\n{listing()}\n\nTheir flags: --help")
        return 0
    name, *more = argv[1:]
    instrument = find(name)
    if more:
        raise UserError(f"unexpected argument {more[0]!r}; give a text with spaces in quotes: --text='two words'")
    if RUN.value is None and instrument.needs_run:
        raise UserError(
            f"--run is missing: which model? Try --run=runs/quickstart; the flags of {name}: {taken_by(instrument)}"
        )
    given = OTHERS.values()
    refuse(name, given)
    if "checkpoints" in given and CHECKPOINT.present:
        raise UserError("--checkpoint has no effect beside --checkpoints, which names all steps; leave one of them out")
    output = _output(name)
    cli.prepare_jax()
    folder = {"folder": output} if instrument.takes_folder else {}
    subject = _subject(instrument.reads_weights) if instrument.needs_run else None
    result = function_of(instrument)(subject, **folder, **given)
    page = result.write(output)
    for note in result.notes:
        print(note, file=sys.stderr)
    for line in result.lines:
        print(line)
    print(f"page: {page}")
    return 0


def _subject(reads_weights: bool) -> Any:
    """The model, or the tokenizer alone for an instrument that needs no more."""
    if reads_weights:
        from train.conversion.loading import load_model

        return load_model(RUN.value, CHECKPOINT.value, mesh=cli.mesh_from_flag(MESH))
    from train.inspection.vocabulary.tokens import open_tokenizer

    for flag in (CHECKPOINT, MESH):
        if flag.present:
            raise UserError(f"--{flag.name} has no effect here: a tokenizer has no weights; leave it out")
    return open_tokenizer(RUN.value)


def _output(name: str) -> pathlib.Path:
    """The folder for the files. Raises UserError where it has to be given."""
    if OUTPUT.value is not None:
        return local_path(OUTPUT.value, "the pages of an inspection")
    if RUN.value is None:
        return pathlib.Path("runs") / "inspection" / name
    run = RUN.value
    if is_remote(run) or not (pathlib.Path(run) / "checkpoints").is_dir():
        if not is_remote(run) and not pathlib.Path(run).is_dir():
            raise UserError(f"{run} is no run folder: there is no such folder; give the folder that launch.train wrote")
        raise UserError(f"--output is missing: {run} is no run folder on this machine, into which the files could go")
    return pathlib.Path(run) / "inspection" / name


if __name__ == "__main__":
    cli.run(main, prints_result=True, may_be_empty=("text",))
