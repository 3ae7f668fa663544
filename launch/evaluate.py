"""Measures a trained model on text: loss, perplexity per token and per word, bits per byte.

    python -m launch.evaluate --run=runs/quickstart
    python -m launch.evaluate --run=runs/quickstart --text=book.txt 'notes/**/*.md' --stride=64 --json

Without --text it measures the validation split of the run's own data. A text may be a file, a folder, a glob, a .jsonl,
.json or .parquet file, perhaps compressed (.gz, .bz2, .xz, .zst), or hf:NAME; each file, or each row of a table, is a
document.

Every token is scored once, in a window of --window tokens (the length of the training sequences when not given) that
moves by --stride: the smaller the stride, the more context a token has, and the longer it takes. The first token of a
document is scored after the mark that ends documents, or as a uniform guess where the tokenizer has no such mark. A
word is what whitespace separates in the original text, bytes are those of the original text. Standard errors are over
documents (ratio estimator).
"""

import json
import math
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cli
from model.errors import UserError

if TYPE_CHECKING:
    from train.evaluation.documents import Document
    from train.evaluation.perplexity import Estimate
    from train.runs import LoadedRun

RUN = flags.DEFINE_string("run", None, "The run folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Which checkpoint: latest, best, or the number of its step.")
TEXT = flags.DEFINE_multi_string(
    "text", [], "What to measure; more may follow as plain arguments. The run's validation split when not given."
)
FIELD = flags.DEFINE_string("field", "text", "The field with the text in .jsonl, .json, .parquet and hf: sources.")
WINDOW = flags.DEFINE_integer("window", None, "Tokens in the window; data.sequence_length of the run when not given.")
STRIDE = flags.DEFINE_integer("stride", None, "Tokens that the window moves by; half of it when not given.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Windows at a time; when not given, by the size of the logits.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")

# What is printed of each measure: its name in JSON, its words, its unit.
MEASURES = (
    ("loss", "loss per token", "nats"),
    ("perplexity", "perplexity per token", ""),
    ("word_perplexity", "perplexity per word", ""),
    ("bits_per_byte", "bits per byte", ""),
)


def main(argv: list[str]) -> int:
    """Reads the flags and measures."""
    if argv[1:] and not TEXT.value:
        raise UserError(f"unexpected argument {argv[1]!r}; name the text with --text={argv[1]}")
    if RUN.value is None:
        raise UserError("--run is missing: which model? Try --run=runs/quickstart")
    for name, flag in (("window", WINDOW), ("stride", STRIDE), ("batch_size", BATCH_SIZE)):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{name} must be at least 1, got {flag.value}")
    paths = TEXT.value + argv[1:]

    cli.prepare_jax()
    from train.evaluation.documents import from_files, from_split
    from train.runs import load_run

    run = load_run(pathlib.Path(RUN.value), CHECKPOINT.value)
    if paths:
        documents = from_files(run.tokenizer, paths, FIELD.value)
    else:
        documents = from_split(run.dataset(), "validation")
    result = measure(run, documents) | {"text": paths or "validation split"}
    if JSON.value:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        print(table(result))
    return 0


def measure(run: "LoadedRun", documents: "Iterable[Document]") -> dict[str, Any]:
    """Scores documents and returns everything that is said of them, as JSON values."""
    from train.evaluation import perplexity
    from train.progress import Progress

    begin = run.tokenizer.begin_of_document
    window = WINDOW.value or run.experiment.data.sequence_length
    stride = STRIDE.value or max(1, window // 2)
    began, lossy = time.monotonic(), 0

    def counted() -> "Iterator[Document]":
        nonlocal lossy
        for document in documents:
            lossy += not document.restored
            yield document

    with Progress("evaluating, tokens", enabled=not JSON.value) as progress:
        scores = perplexity.score(
            run.experiment.model,
            run.params,
            counted(),
            begin=begin,
            mesh=run.mesh,
            table=run.experiment.sharding,
            stride=stride,
            window=window,
            batch_size=BATCH_SIZE.value,
            on_progress=progress.update,
        )
    seconds = time.monotonic() - began
    sizes = {name: int(getattr(scores, name).sum()) for name in ("tokens", "bytes", "words")}
    result: dict[str, Any] = {"run": RUN.value, "step": run.step, "documents": len(scores.tokens)} | sizes
    for name, estimate in perplexity.summarize(scores).items():
        result[name], result[f"{name}_standard_error"] = finite(estimate)
    return result | {
        "window": window,
        "stride": stride,
        "first_token": "after the end of a document" if begin is not None else "uniform",
        "documents_not_restored": lossy,
        "seconds": round(seconds, 3),
    }


def finite(estimate: "Estimate") -> tuple[float | None, float | None]:
    """A value and its standard error; None for what JSON has no word for."""
    value, error = estimate.value, estimate.standard_error
    error = error if error is not None and math.isfinite(error) else None
    return (value if math.isfinite(value) else None), error


def table(result: dict[str, Any]) -> str:
    """The result as lines for a person."""
    from train.formatting import number

    text = result["text"] if isinstance(result["text"], str) else " ".join(result["text"])
    lines = [f"{result['run']}, step {result['step']}, on {text}", ""]
    lines += [f"  {name:<22}{result[name]:>12,}" for name in ("documents", "tokens", "words", "bytes")]
    lines += ["", f"  {'':<22}{'value':>12}{'standard error':>18}"]
    for name, words, unit in MEASURES:
        value, error = result[name], result[f"{name}_standard_error"]
        shown = "not finite" if value is None else number(value)
        lines.append(f"  {words:<22}{shown:>12}{'-' if error is None else number(error):>18}  {unit}".rstrip())
    lines += ["", f"  window {result['window']} tokens, stride {result['stride']}; {_first_tokens(result)}"]
    if result["documents"] == 1:
        lines.append("  one document: there is no standard error over documents")
    if result["documents_not_restored"]:
        lines.append(
            f"  WARNING: {result['documents_not_restored']} documents hold characters that the tokenizer loses: their "
            "bits per byte are not those of the original text"
        )
    return "\n".join(lines)


def _first_tokens(result: dict[str, Any]) -> str:
    if result["first_token"] == "uniform":
        return "the first token of a document counts as a uniform guess"
    return "a document's first token is scored after the mark that ends documents"


if __name__ == "__main__":
    cli.run(main)
