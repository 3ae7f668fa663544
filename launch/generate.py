r"""Generates texts with a trained model.

    python -m launch.generate --run=runs/quickstart --prompt='def main(' --temperature=0.8
    python -m launch.generate --run=runs/quickstart --prompts_file=prompts.txt --num_samples=4 --json
    python -m launch.generate --run=runs/llama-70b --prompt='Once' --mesh=fsdp=4,tensor=2
    python -m launch.generate --run=runs/llama-1b --prompts_file=prompts.jsonl --output=texts.jsonl
    python -m launch.generate --run=runs/llama-1b --chat
    python -m launch.generate --run=runs/llama-8b --chat --draft=runs/llama-1b
    python -m launch.generate --run=runs/llama-1b --chat --prompt='Two pets as JSON.' --json_schema=pets.json
    python -m launch.generate --run=runs/quickstart --prompt='I feel' --steer=runs/quickstart/inspection/steer:0.3

A single text is written to the terminal while it is drawn, several texts when all are finished. A text ends at the end
of its document, before a stop string, after --max_tokens, when the model's context is full, or when a signal ends the
command. The same seed gives the same texts. The speed is printed on standard error, so that standard output holds only
text. The checkpoint's parameters are read and checked, its optimizer state is not.

Each text begins when another ends, --batch_size at a time. With --output they go into a file with a line of JSON for
each, in the order of the prompts, and the same command continues one that was killed. With --chat a prompt is a
message, which the tokenizer's chat template wraps; without a prompt, each line that is typed is one. --draft and
--set=engine.speculation='NGram()' guess tokens and change no text; the last line says how many guesses were right.

With --json_schema, --regex, --choice or --grammar each text is one of those that it allows, as far as --max_tokens go:
before every draw the tokens that lead to none of them are left out. Needs `pip install 'cairn-lm[constrained]'`.

--steer adds a vector of `launch.inspect steer` to the stream after a layer, SCALE times, at every token. The engine
takes no vectors, so such texts are drawn in batches, each of which runs until its last text ends; and so are those of
models that read a prompt whole, as a prefix, or a source by additive attention. With an encoder, each prompt is a
source, and the text is the target alone.
"""

import sys
import time
from typing import TYPE_CHECKING

from absl import flags

from launch.command import cli, constraint_flags, engine_flags, streams
from model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launch.command.engine_texts import EngineTexts
    from model.inference.sampling import Sampling
    from train.generation.continuations import Continuation
    from train.generation.prompts import Prompt
    from train.generation.texts import GeneratedText
    from train.run.loading import LoadedRun

    Result = Continuation | GeneratedText

RUN = cli.define_path("run", None, "The run folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Which checkpoint: latest, best, or the number of its step.")
PROMPT = flags.DEFINE_multi_string(
    "prompt",
    [],
    "The beginning of a text. May be given many times. Without one, a document is written from its beginning.",
)
PROMPTS_FILE = cli.define_path(
    "prompts_file",
    None,
    "A UTF-8 file with a prompt on each line that is not blank; in a .jsonl file, lines such as "
    '{"prompt": "two\\nlines"}.',
)
MAX_TOKENS = flags.DEFINE_integer("max_tokens", 256, "The most new tokens of each text.")
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "1 draws from the model as it is, 0 takes the likeliest token.")
TOP_K = flags.DEFINE_integer("top_k", None, "Draws from the k likeliest tokens.")
TOP_P = flags.DEFINE_float("top_p", None, "Draws from the fewest likeliest tokens whose probabilities sum to p.")
MIN_P = flags.DEFINE_float("min_p", None, "Draws from tokens at least this many times as probable as the likeliest.")
REPETITION_PENALTY = flags.DEFINE_float(
    "repetition_penalty",
    None,
    "Divides the scores of tokens that were there before, in the prompt too; above 1 to repeat less. The marks that "
    "begin and end a document are not counted: a text may end as it does without a penalty.",
)
STOP = flags.DEFINE_multi_string("stop", [], "Ends a text before this string. May be given many times.")
SEED = flags.DEFINE_integer("seed", 0, "Decides every draw.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Texts for each prompt.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Texts that are drawn at the same time.")
MESH = cli.define_mesh()
ENGINE = engine_flags.define_engine()
OUTPUT = cli.define_path(
    "output", None, "A .jsonl file for the texts: a line for each, in order; a killed command continues it."
)
CHAT = flags.DEFINE_bool("chat", False, "Answers messages, by the chat template of the tokenizer.")
CHAT_TEMPLATE = cli.define_path(
    "chat_template", None, "With --chat: a Jinja file that makes prompts of messages, in place of the tokenizer's own."
)
STEER = flags.DEFINE_multi_string(
    "steer", [], "FILE:SCALE, a vector of launch.inspect steer and how many times to add it. May be given many times."
)
CONSTRAINT = constraint_flags.define_constraint()
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object with all texts at the end, and nothing before.")

MAX_TEXTS = 1_000_000


def main(argv: list[str]) -> int:
    """Reads the flags and writes the texts."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; give a prompt with spaces in quotes: --prompt='two words'")
    if RUN.value is None:
        raise UserError("--run is missing: which model? Try --run=runs/quickstart")
    for name, flag in (("num_samples", NUM_SAMPLES), ("batch_size", BATCH_SIZE)):
        if flag.value < 1:
            raise UserError(f"--{name} must be at least 1, got {flag.value}")
    sampling = _sampling()
    if NUM_SAMPLES.value > 1 and sampling.temperature == 0:
        raise UserError(f"--num_samples={NUM_SAMPLES.value} with --temperature=0 would give the same text each time")
    if CHAT_TEMPLATE.value is not None and not CHAT.value:
        raise UserError("--chat_template has no effect without --chat; give both, or leave it out")
    given = _prompts()
    if not STEER.value:
        return _on_engine(given, sampling)
    in_vain = CHAT.value or OUTPUT.value is not None or engine_flags.is_given(ENGINE)
    if in_vain or constraint_flags.is_given(CONSTRAINT):
        raise UserError(
            "--steer has no effect with --output, --chat, --set, --draft and constraints: the engine takes no vectors; "
            "leave it out"
        )
    cli.prepare_jax()
    from train.run.loading import load_run

    return _in_batches(load_run(RUN.value, CHECKPOINT.value, mesh=cli.mesh_from_flag(MESH)), given, sampling)


def _in_batches(run: "LoadedRun", given: "list[Prompt]", sampling: "Sampling") -> int:
    """Draws texts in static batches, with vectors that are added to the stream, if any are given."""
    from train.generation.texts import before_texts, check_prompts, generate_texts, largest_cache_bytes
    from train.inspection.causes.steering import edits_of

    given = given or [_no_prompt()]
    prompts = [prompt.text for prompt in given for _ in range(NUM_SAMPLES.value)]
    edits = edits_of(STEER.value, run.experiment.model)
    texts, named = zip(*given, strict=True)
    rows = check_prompts(run.experiment.model, run.tokenizer, texts, named)
    rows = [row for row in rows for _ in range(NUM_SAMPLES.value)]
    cache = largest_cache_bytes(run.experiment.model, rows, sampling.max_tokens, BATCH_SIZE.value, run.layout)
    printer = _Printer(before_texts(run.experiment.model, prompts, ""), cache, silent=JSON.value)
    results: list[GeneratedText] = []
    try:
        generate_texts(
            run.experiment.model,
            run.params,
            run.tokenizer,
            prompts,
            sampling,
            stop_strings=STOP.value,
            batch_size=BATCH_SIZE.value,
            layout=run.layout,
            on_text=printer.show,
            results=results,
            edits=edits,
        )
    finally:  # a signal loses no token that was drawn before
        if results:
            _print_results(run.step, prompts[: len(results)], printer, results)
    printer.report(results)
    return 0


def _print_results(step: int, prompts: list[str], printer: "_Printer", results: "Sequence[Result]") -> None:
    if JSON.value:
        print(streams.as_json(_as_json(step, prompts, results)))
    else:
        printer.finish(results)


def _sampling() -> "Sampling":
    """The sampling options from the flags. Raises UserError that names the flags with problems."""
    from model.inference.sampling import Sampling
    from model.options.tree import find_problems

    sampling = Sampling(
        max_tokens=MAX_TOKENS.value,
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
        min_p=MIN_P.value,
        repetition_penalty=REPETITION_PENALTY.value,
        seed=SEED.value,
    )
    problems = find_problems(sampling)
    if problems:
        raise UserError("\n  ".join("--" + problem for problem in problems))
    return sampling


def _prompts() -> "list[Prompt]":
    """The prompts from the flags and the file. Raises UserError for bad prompts."""
    from train.files.paths import user_path
    from train.files.remote import local_copy
    from train.generation.prompts import from_flags, read_prompts

    from_flags(STOP.value, "stop")
    prompts = from_flags(PROMPT.value, "prompt")
    if PROMPTS_FILE.value is not None:
        prompts += read_prompts(local_copy(user_path(PROMPTS_FILE.value)))
    if len(prompts) * NUM_SAMPLES.value > MAX_TEXTS:
        raise UserError(
            f"--num_samples={NUM_SAMPLES.value} of {len(prompts)} prompts are more than {MAX_TEXTS:,} texts, which "
            "are all held in memory; lower it, and draw more with another --seed"
        )
    return prompts


def _no_prompt() -> "Prompt":
    """The prompt when none is given: a document is written from its beginning."""
    from train.generation.prompts import Prompt

    return Prompt("", "the prompt")


def _on_engine(given: "list[Prompt]", sampling: "Sampling") -> int:
    """Draws texts with the engine: for the terminal, into a file, or as a chat."""
    if JSON.value and (CHAT.value or OUTPUT.value is not None):
        raise UserError("--json prints texts at the end, and has no effect with --output and --chat; leave it out")
    if CHAT.value and OUTPUT.value is None and (NUM_SAMPLES.value > 1 or PROMPTS_FILE.value is not None):
        raise UserError("--chat on the terminal answers one message at a time; give --output=FILE.jsonl for many")
    from train.generation.results_file import output_path

    output = None if OUTPUT.value is None else output_path(OUTPUT.value)
    from model.inference.engine.options import EngineOptions

    for_terminal = OUTPUT.value is None and not CHAT.value
    given = given or ([] if CHAT.value else [_no_prompt()])
    rows = min(BATCH_SIZE.value, len(given) * NUM_SAMPLES.value) if for_terminal else BATCH_SIZE.value
    options = engine_flags.engine_options(
        ENGINE, EngineOptions(rows=rows, tokens_per_step=max(128, 2 * rows)), {"rows": BATCH_SIZE.name}
    )
    form = constraint_flags.form_of(CONSTRAINT)
    cli.prepare_jax()
    from launch.command.engine_texts import EngineTexts, with_cache_for
    from train.run.loading import load_run

    run = load_run(RUN.value, CHECKPOINT.value, mesh=cli.mesh_from_flag(MESH))
    if (
        for_terminal
        and run.experiment.model.needs_static_batches
        and form is None
        and not engine_flags.is_given(ENGINE)
    ):
        return _in_batches(run, given, sampling)
    if for_terminal:
        options = with_cache_for(options, run, given, sampling.max_tokens)
    texts = EngineTexts(
        run,
        sampling,
        stop_strings=tuple(STOP.value),
        engine=options,
        draft=engine_flags.draft_of(ENGINE, run),
        chat=CHAT.value,
        chat_template=CHAT_TEMPLATE.value,
        form=form,
    )
    if output is not None:
        texts.write(given or [_no_prompt()], NUM_SAMPLES.value, output)
    elif CHAT.value:
        texts.converse([prompt.text for prompt in given] or None)
    else:
        _draw(texts, given, run)
    return 0


def _draw(texts: "EngineTexts", given: "list[Prompt]", run: "LoadedRun") -> None:
    """Draws texts for the terminal."""
    from train.generation.texts import before_texts

    prompts = [prompt.text for prompt in given for _ in range(NUM_SAMPLES.value)]
    before = before_texts(run.experiment.model, prompts, "")
    printer = _Printer(before, texts.cache_bytes, silent=JSON.value)
    results: list[Continuation] = []
    try:
        texts.draw(given, NUM_SAMPLES.value, printer.show, results)
    finally:  # a signal loses no token that was drawn before
        if results:
            _print_results(run.step, prompts[: len(results)], printer, results)
    printer.report(results, texts.describe_guesses())


def _ended_by(result: "Result") -> str:
    return "interruption" if result.ended_by == "cancelled" else result.ended_by


def _as_json(step: int, prompts: list[str], results: "Sequence[Result]") -> dict[str, object]:
    samples = [
        {"prompt": prompt, "text": r.text, "tokens": r.tokens, "ended_by": _ended_by(r)}
        for prompt, r in zip(prompts, results, strict=True)
    ]
    return {"run": RUN.value, "step": step, "seed": SEED.value, "samples": samples}


class _Printer:
    """Writes texts to the terminal, a single text while it is drawn, and measures the time."""

    def __init__(self, prompts: "Sequence[str]", cache: int, silent: bool) -> None:
        self.prompts, self.cache, self.silent = prompts, cache, silent
        self.live = len(prompts) == 1 and not silent
        self.began = time.monotonic()
        self.first = self.last = 0.0

    def show(self, row: int, text: str) -> None:
        """Takes the text that a token completed; prints it if texts are shown while they are drawn."""
        self.last = time.monotonic()
        if not self.first:
            self.first = self.last
            text = self.prompts[0] + text  # not before: a prompt that is refused leaves standard output empty
        if self.live and text:
            print(text, end="", flush=True)
            streams.check_reader()

    def finish(self, results: "Sequence[Result]") -> None:
        """Writes the texts that were not written while they were drawn."""
        if self.live:
            print()
            return
        for number, (prompt, result) in enumerate(zip(self.prompts, results, strict=False), start=1):
            print(f"=== {number} of {len(self.prompts)}, ended by {_ended_by(result).replace('_', ' ')} ===")
            print(prompt + result.text)

    def report(self, results: "Sequence[Result]", more: str = "") -> None:
        """Prints the number of tokens, their speed, and the size of the cache on standard error."""
        tokens = sum(result.tokens for result in results)
        ends = f", ended by {_ended_by(results[0]).replace('_', ' ')}" if len(results) == 1 else ""
        line = f"{tokens} tokens{ends}; the first after {self.first - self.began:.2f} s"
        later, seconds = tokens - min(len(results), BATCH_SIZE.value), self.last - self.first
        if later > 0 and seconds > 0:
            line += f", then {later / seconds:.0f} tokens/s"
        print(f"{line}; cache {self.cache / 1e6:.1f} MB{more}", file=sys.stderr)
        if count := sum(result.ends_mid_character for result in results):
            what = "the text ends" if len(results) == 1 else f"{count} of {len(results)} texts end"
            print(
                f"{what} amid the bytes of a character, shown as U+FFFD; more --max_tokens finish it", file=sys.stderr
            )


if __name__ == "__main__":
    cli.run(main, prints_result=True, may_be_empty=("prompt",))
