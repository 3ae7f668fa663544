"""Measures a model on text: loss, perplexity per token and per word, bits per byte and per character.

    python -m launch.evaluate --run=runs/quickstart
    python -m launch.evaluate --run=runs/quickstart --text=book.txt 'notes/**/*.md' --stride=64 --json
    python -m launch.evaluate --run=runs/llama-70b --mesh=fsdp=4,tensor=2
    python -m launch.evaluate --run=runs/quickstart --probes=induction,needle,recall --html=probes.html
    python -m launch.evaluate --run=runs/quickstart --harness=arc_easy,lambada_openai --num_fewshot=0
    python -m launch.evaluate --run=runs/sft --questions=data/instructions/prompts.test.jsonl
    python -m launch.evaluate --run=models/Qwen3-0.6B --text=domains.jsonl --details --html=page.html
    python -m launch.evaluate --run=runs/a --against=runs/b --text=book.txt --text=domains.jsonl
    python -m launch.evaluate --run=models/gpt2 --text=wikitext.jsonl --stream --window=1024 --stride=512
    python -m launch.evaluate --run=runs/a --text=books.jsonl --lengths=0.5x,1x,2x,4x,8x

--run takes a run folder or a Hugging Face folder, of which no copy is written. Without --text it measures the
validation split of the run's own data. A text may be a file, a folder, a glob, a .jsonl, .json or .parquet file,
perhaps compressed (.gz, .bz2, .xz, .zst), or hf:NAME; each file, or each row of a table, is a document. A row belongs
to the domain that its field "domain" (--domain_field) names, any other document to the path that was given; where there
are several domains, each is measured, and their mean.

Every token is scored once, in a window of --window tokens (the length of the training sequences when not given) that
moves by --stride: the smaller the stride, the more context a token has, and the longer it takes. A document begins
after the mark that begins documents, as in training; if the tokenizer has no such mark, the first token is not scored,
and its bytes are not counted. A stride of a whole window makes the windows of lm-eval's rolling loglikelihood.
--stream joins the documents of a domain and cuts windows as the documentation of transformers does ("Perplexity of
fixed-length models"), and prints its perplexity too. Words are separated by whitespace in the original text; bytes and
characters are those of the original text. Standard errors are over documents (ratio estimator). A value that is too
large for a number (a perplexity above 1.8e308) is "not finite", and null in JSON: the loss above it is its logarithm.

--against measures a second model on the same text: the difference of each measure with an interval over documents.
Models with different tokenizers are compared per byte and per character alone. --details adds accuracy, entropy,
calibration and the loss against the number of tokens before. --lengths measures windows shorter and longer than those
of the training. With --resume (or --results=FILE) a killed evaluation continues and prints the same numbers.

--questions puts the prompts of a .jsonl file to the model, which answers greedily by its chat template, and compares
the answers with the right ones: exactly (strict), and whether they end so (lenient). --answers=FILE keeps the texts.

--preferences measures how often a model puts the preferred answer of a pair first, and by how much: a reward model by
its scores, a policy by its implicit reward beside --reference. --questions with --win_rate=RUN compares the answers of
two runs, judged by the right answers or by a reward model (--judge).

--probes asks tasks without data (train/evaluation/probes/), beside the losses of known strategies. --harness runs tasks
of lm_eval (pip install -e '.[harness]'); its tasks read their data from the Hugging Face hub or, in --harness_folder,
from files of your own.

The parameters of the checkpoint are read and checked, its optimizer state is not: damage there is noticed only when the
run is trained further. A script calls train.evaluation.evaluate.evaluate, or train.evaluation.bench.request for all of
this, which give the same numbers.
"""

from typing import Any, cast

from absl import flags

from launch.command import cli, other_evaluations, streams
from model.errors import UserError
from train.files.paths import expand_home, local_path

RUN = cli.define_path("run", None, "The run folder, or a Hugging Face folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Which checkpoint: latest, best, or the number of its step.")
AGAINST = cli.define_path("against", None, "A second model, a folder as for --run, to compare on the same text.")
AGAINST_CHECKPOINT = flags.DEFINE_string("against_checkpoint", "latest", "Which checkpoint of --against.")
TEXT = cli.define_paths(
    "text", "What to measure; more may follow as plain arguments. The run's validation split when not given."
)
FIELD = flags.DEFINE_string("field", "text", "The field with the text in .jsonl, .json, .parquet and hf: sources.")
DOMAIN_FIELD = flags.DEFINE_string(
    "domain_field", None, "The field with the domain, in every row; when not given, 'domain' in rows that have it."
)
STREAM = flags.DEFINE_bool("stream", False, "Joins the documents of a domain to one text.")
SEPARATOR = flags.DEFINE_string("separator", "\n\n", "With --stream: the text between two documents.")
WINDOW = flags.DEFINE_integer("window", None, "Tokens in the window; data.sequence_length of the run when not given.")
STRIDE = flags.DEFINE_integer("stride", None, "Tokens that the window moves by; half of it when not given.")
WINDOWS = flags.DEFINE_enum(
    "windows", None, ["sliding", "transformers"], "How windows are cut; transformers with --stream when not given."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Windows at a time; when not given, what devices can hold.")
MESH = cli.define_mesh()
OTHER = other_evaluations.define()
DETAILS = flags.DEFINE_bool("details", False, "Also accuracy, entropy, calibration, the loss against the position.")
LENGTHS = flags.DEFINE_list(
    "lengths", [], "Windows to measure: tokens, or multiples of the trained length (0.5x,1x,2x,4x,8x)."
)
RESUME = flags.DEFINE_bool("resume", False, "Keeps the results of documents in the run folder, and continues there.")
RESULTS = cli.define_path("results", None, "Like --resume, with the results in this file.")
HTML = cli.define_path("html", None, "Writes a page: every token coloured by its loss, or the pictures of --probes.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")

# The flags that are about texts alone.
OF_TEXTS = (
    AGAINST, AGAINST_CHECKPOINT, FIELD, DOMAIN_FIELD, STREAM, SEPARATOR, WINDOW, STRIDE, WINDOWS, BATCH_SIZE, DETAILS,
    LENGTHS, RESUME, RESULTS,
)  # fmt: skip

MAX_WINDOWS = 65_536  # at a time: together they are one array


def main(argv: list[str]) -> int:
    """Reads the flags and measures."""
    texts = _texts(argv)
    _check_flags()
    if OTHER.asked():
        for flag in (TEXT, *OF_TEXTS):
            if flag.present:
                others = "--probes, --harness, --questions and --preferences"
                raise UserError(f"--{flag.name} has no effect beside {others}; leave it out")
        cli.prepare_jax()
        return OTHER.run(RUN.value, CHECKPOINT.value, cli.mesh_from_flag(MESH), HTML.value, JSON.value)
    cli.prepare_jax()
    from train.evaluation.bench.request import evaluate_request
    from train.evaluation.output.page import write_page
    from train.terminal.progress import Progress

    with Progress("evaluating, tokens", enabled=not JSON.value) as progress:
        outcome = evaluate_request(_request(texts), mesh=cli.mesh_from_flag(MESH), on_progress=progress.update)
    name = " ".join(texts) or "validation split"
    if HTML.value is not None:
        write_page(outcome, name, local_path(HTML.value, "a page"))
    if JSON.value:
        print(streams.as_json(outcome.as_json() | {"text": texts or "validation split"}))
    else:
        from train.evaluation.output.tables import outcome_tables

        print(outcome_tables(outcome, name))
    return 0


def _texts(argv: list[str]) -> list[str]:
    if argv[1:] and not TEXT.value:
        raise UserError(f"unexpected argument {argv[1]!r}; name the text with --text={argv[1]}")
    return TEXT.value + [expand_home(path) for path in argv[1:]]


def _check_flags() -> None:
    if RUN.value is None:
        raise UserError("--run is missing: which model? Try --run=runs/quickstart")
    for name, flag in (("window", WINDOW), ("stride", STRIDE), ("batch_size", BATCH_SIZE)):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{name} must be at least 1, got {flag.value}")
    if (BATCH_SIZE.value or 1) > MAX_WINDOWS:
        raise UserError(f"--batch_size must be at most {MAX_WINDOWS:,}, got {BATCH_SIZE.value}")
    if AGAINST.value is None and AGAINST_CHECKPOINT.present:
        raise UserError("--against_checkpoint has no effect without --against; leave it out")
    if SEPARATOR.present and not STREAM.value:
        raise UserError("--separator has no effect without --stream; leave it out")
    cli.page_path("html", HTML.value)
    if DOMAIN_FIELD.value is not None and not TEXT.value:
        raise UserError("--domain_field is about the tables of --text; leave it out")


def _request(texts: list[str]) -> Any:
    from train.evaluation.bench.request import PAGE_TOKENS, Request
    from train.evaluation.document_scores import NOTHING_KEPT

    return Request(
        model=RUN.value,
        checkpoint=CHECKPOINT.value,
        against=AGAINST.value,
        against_checkpoint=AGAINST_CHECKPOINT.value,
        texts=tuple(texts),
        field=FIELD.value,
        domain_field=DOMAIN_FIELD.value,
        stream=STREAM.value,
        separator=SEPARATOR.value,
        window=WINDOW.value,
        stride=STRIDE.value,
        windows=cast(Any, WINDOWS.value),
        batch_size=BATCH_SIZE.value,
        detailed=DETAILS.value,
        lengths=tuple(LENGTHS.value),
        results=None if RESULTS.value is None else local_path(RESULTS.value, "a file of results"),
        resume=RESUME.value,
        kept=NOTHING_KEPT if HTML.value is None else PAGE_TOKENS,
    )


if __name__ == "__main__":
    cli.run(main, prints_result=True, may_be_empty=("field", "separator"))
