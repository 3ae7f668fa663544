"""Measures a trained model on text: loss, perplexity per token and per word, bits per byte.

    python -m launch.evaluate --run=runs/quickstart
    python -m launch.evaluate --run=runs/quickstart --text=book.txt 'notes/**/*.md' --stride=64 --json
    python -m launch.evaluate --run=runs/llama-70b --mesh=fsdp=4,tensor=2
    python -m launch.evaluate --run=runs/quickstart --probes=induction,needle,recall --html=probes.html
    python -m launch.evaluate --run=runs/quickstart --harness=arc_easy,lambada_openai --num_fewshot=0

Without --text it measures the validation split of the run's own data. A text may be a file, a folder, a glob, a .jsonl,
.json or .parquet file, perhaps compressed (.gz, .bz2, .xz, .zst), or hf:NAME; each file, or each row of a table, is a
document.

Every token is scored once, in a window of --window tokens (the length of the training sequences when not given) that
moves by --stride: the smaller the stride, the more context a token has, and the longer it takes. A document begins
after the mark that begins documents, as in training; if the tokenizer has no such mark, the first token is not scored,
and its bytes are not counted. Words are separated by whitespace in the original text; bytes are those of the original
text. Standard errors are over documents (ratio estimator). A value that is too large for a number (a perplexity above
1.8e308) is "not finite", and null in JSON: the loss above it is its logarithm.

--probes asks tasks without data (train/evaluation/probes/), beside the losses of known strategies. --harness runs tasks
of lm_eval (pip install -e '.[harness]'); its tasks read their data from the Hugging Face hub or, in --harness_folder,
from files of your own.

The parameters of the checkpoint are read and checked, its optimizer state is not: damage there is noticed only when the
run is trained further. A script calls train.evaluation.evaluate.evaluate, which gives the same numbers.
"""

from typing import TYPE_CHECKING

from absl import flags

from launch.command import cli, other_evaluations, streams
from model.errors import UserError
from train.files.paths import expand_home

if TYPE_CHECKING:
    from train.evaluation.evaluate import Result

RUN = cli.define_path("run", None, "The run folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Which checkpoint: latest, best, or the number of its step.")
TEXT = cli.define_paths(
    "text", "What to measure; more may follow as plain arguments. The run's validation split when not given."
)
FIELD = flags.DEFINE_string("field", "text", "The field with the text in .jsonl, .json, .parquet and hf: sources.")
WINDOW = flags.DEFINE_integer("window", None, "Tokens in the window; data.sequence_length of the run when not given.")
STRIDE = flags.DEFINE_integer("stride", None, "Tokens that the window moves by; half of it when not given.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Windows at a time; when not given, what devices can hold.")
MESH = cli.define_mesh()
OTHER = other_evaluations.define()
HTML = cli.define_path("html", None, "With --probes: writes a page with their pictures.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")

MAX_WINDOWS = 65_536  # at a time: together they are one array

# Of each measure: its name in JSON, its printed name, its unit.
MEASURE_WORDS = {
    "loss": ("loss per token", "nats"),
    "perplexity": ("perplexity per token", ""),
    "word_loss": ("loss per word", "nats"),
    "word_perplexity": ("perplexity per word", ""),
    "bits_per_byte": ("bits per byte", ""),
}


def main(argv: list[str]) -> int:
    """Reads the flags and measures."""
    if argv[1:] and not TEXT.value:
        raise UserError(f"unexpected argument {argv[1]!r}; name the text with --text={argv[1]}")
    if RUN.value is None:
        raise UserError("--run is missing: which model? Try --run=runs/quickstart")
    for name, flag in (("window", WINDOW), ("stride", STRIDE), ("batch_size", BATCH_SIZE)):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{name} must be at least 1, got {flag.value}")
    if (BATCH_SIZE.value or 1) > MAX_WINDOWS:
        raise UserError(f"--batch_size must be at most {MAX_WINDOWS:,}, got {BATCH_SIZE.value}")
    if OTHER.asked():
        if TEXT.value or argv[1:]:
            raise UserError("--text has no effect beside --probes and --harness; leave it out")
        cli.prepare_jax()
        mesh = cli.mesh_from_flag(MESH)
        return OTHER.run(RUN.value, CHECKPOINT.value, mesh, HTML.value, JSON.value)
    if HTML.value is not None:
        raise UserError("--html has no effect without --probes; leave it out")
    paths = TEXT.value + [expand_home(path) for path in argv[1:]]

    cli.prepare_jax()
    from train.evaluation.documents import from_files
    from train.evaluation.evaluate import evaluate
    from train.run.loading import load_run
    from train.terminal.progress import Progress

    run = load_run(RUN.value, CHECKPOINT.value, mesh=cli.mesh_from_flag(MESH))
    documents = from_files(run.tokenizer, paths, FIELD.value) if paths else None
    with Progress("evaluating, tokens", enabled=not JSON.value) as progress:
        result = evaluate(
            run,
            documents,
            window=WINDOW.value,
            stride=STRIDE.value,
            batch_size=BATCH_SIZE.value,
            on_progress=progress.update,
        )
    if JSON.value:
        print(streams.as_json(result.as_json() | {"text": paths or "validation split"}))
    else:
        print(table(result, " ".join(paths) or "validation split"))
    return 0


def table(result: "Result", text: str) -> str:
    """The result as lines for the terminal; `text` names the measured text."""
    from train.terminal.formatting import escape_unprintable

    found = result.as_json()
    lines = [f"{escape_unprintable(str(result.run))}, step {result.step}, on {escape_unprintable(text)}", ""]
    lines += _align_columns([[name, f"{found[name]:,}"] for name in ("documents", "tokens", "words", "bytes")])
    rows = [["", "value", "standard error", ""]]
    for name, (words, unit) in MEASURE_WORDS.items():
        rows.append(
            [words, _format_value(found[name], "not finite"), _format_value(found[f"{name}_standard_error"], "-"), unit]
        )
    lines += ["", *_align_columns(rows), ""]
    lines.append(f"  window {result.window} tokens, stride {result.stride}; {_first_token_note(result)}")
    if len(result.tally.entries) == 1:
        lines.append("  one document: there is no standard error over documents")
    if result.documents_not_restored:
        lines.append(
            f"  WARNING: {result.documents_not_restored} documents hold characters that the tokenizer loses: their "
            "bits per byte are not those of the original text"
        )
    return "\n".join(lines)


def _format_value(value: float | None, otherwise: str) -> str:
    from train.terminal.formatting import format_number

    return otherwise if value is None else format_number(value)


def _align_columns(rows: list[list[str]]) -> list[str]:
    """Rows of a table: a name aligned left, at most two columns aligned right, and a unit after them."""
    least = (22, 12, 16, 0)
    widths = [max(least[k], *(len(row[k]) for row in rows)) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"] + [f"{cell:>{w}}" for cell, w in zip(row[1:3], widths[1:3], strict=False)]
        lines.append("  " + "  ".join([*cells, *row[3:]]).rstrip())
    return lines


def _first_token_note(result: "Result") -> str:
    if result.first_token == "left out":
        count, size = result.left_out_tokens, result.left_out_bytes
        return f"first tokens of documents, which nothing comes before, are not counted ({count:,}, of {size:,} bytes)"
    return f"a document's first token is scored {result.first_token}"


if __name__ == "__main__":
    cli.run(main, prints_result=True, may_be_empty=("field",))
