"""The work of launch.evaluate, from a request of plain values to results: the same as one call from Python.

    request = Request(model="runs/a", against="models/b", texts=("domains.jsonl",), detailed=True)
    outcome = evaluate_request(request)
    outcome.pair.measures["bits_per_byte"].difference

The models are measured one after the other; the text is read again for each, and is never held in memory as a whole.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from model.errors import UserError
from train.conversion.loading import described_model, load_model
from train.evaluation.bench.lengths import LengthResult, evaluate_lengths, parse_lengths, trained_length
from train.evaluation.bench.pairs import Pair, compare, same_tokens
from train.evaluation.document_scores import NOTHING_KEPT, Kept
from train.evaluation.documents import Document, Text, from_split, joined, read_texts, texts_of_split, tokenized
from train.evaluation.evaluate import Result, evaluate
from train.evaluation.windows import WindowKind
from train.parallel.mesh import Mesh
from train.run.folder import RESULTS
from train.run.loading import LoadedRun

PAGE_TOKENS = Kept(of_document=1_000, of_domain=8_000)  # shown on the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """An evaluation as the flags of launch.evaluate describe it.

    Attributes:
      model: a run folder or a Hugging Face folder.
      checkpoint: of a run: latest, best, or a step.
      against, against_checkpoint: a second model for the same text, or None.
      texts: files, folders, globs, tables; none for the validation split of the (first) model's run.
      field, domain_field: of tables, see `train.evaluation.documents.read_texts`.
      stream, separator: whether the texts of a domain are joined to one, with the separator between them.
      window, stride, windows, batch_size, detailed: as for `train.evaluation.evaluate.evaluate`; windows=None is
        "transformers" for a stream, and "sliding" otherwise.
      lengths: the windows of a length extrapolation (bench/lengths.py) in place of the one evaluation.
      results: a file that gets the scores of documents, and from which an interrupted evaluation continues.
      resume: whether to keep these in the run folder instead.
      kept: how many tokens to keep with their losses.
    """

    model: str
    checkpoint: str = "latest"
    against: str | None = None
    against_checkpoint: str = "latest"
    texts: tuple[str, ...] = ()
    field: str = "text"
    domain_field: str | None = None
    stream: bool = False
    separator: str = "\n\n"
    window: int | None = None
    stride: int | None = None
    windows: WindowKind | None = None
    batch_size: int | None = None
    detailed: bool = False
    lengths: tuple[str, ...] = ()
    results: pathlib.Path | None = None
    resume: bool = False
    kept: Kept = NOTHING_KEPT

    def check(self) -> None:
        """Raises UserError for values that contradict one another."""
        if self.lengths and self.against is not None:
            raise UserError("--lengths measures one model; leave out --against, and give the command for each model")
        if self.lengths and (self.window is not None or self.stride is not None):
            raise UserError("--lengths chooses the windows and their strides; leave out --window and --stride")
        if self.lengths and self.windows == "transformers":
            raise UserError("--lengths has sliding windows; leave out --windows=transformers")
        if self.resume and self.results is not None:
            raise UserError(f"--resume keeps the results in the run folder; leave it out, or --results={self.results}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a request.

    Attributes:
      results: of the model, and of the second one.
      models: the models, in the same order.
      pair: their comparison, if there are two.
      lengths: the results of each length, if they were asked for; `results` then holds that of the longest.
    """

    results: tuple[Result, ...]
    models: tuple[LoadedRun, ...]
    pair: Pair | None = None
    lengths: tuple[LengthResult, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON values: of the one result, of the pair, or of all lengths."""
        if self.lengths:
            return {"lengths": [each.as_json() for each in self.lengths]}
        return self.results[0].as_json() if self.pair is None else self.pair.as_json()


def evaluate_request(
    request: Request, *, mesh: Mesh | None = None, on_progress: Callable[[int], None] | None = None
) -> Outcome:
    """Loads the models and measures them; see `Request`. Raises UserError as the functions that it calls."""
    request.check()
    if request.against is not None:
        described_model(request.against)  # a mistake in its path is said before the first model is measured
    base = load_model(request.model, request.checkpoint, mesh=mesh)
    if (reason := base.experiment.data.no_text) is not None and not request.texts:
        raise UserError(f"{request.model}: {reason}, so that it has no text; give --text, or measure it with --probes")
    measure = functools.partial(_measure, request, base, on_progress=on_progress)
    if request.lengths:
        lengths = parse_lengths(request.lengths, trained_length(base))
        found = evaluate_lengths(
            base, lambda: _documents(request, base, base), lengths, lambda model, docs, n: measure(model, docs, n)
        )
        return Outcome(results=(found[-1].result,), models=(base,), lengths=tuple(found))
    own_split = not request.texts and not request.stream  # which knows the text that its tokenizer lost
    result = measure(base, None if own_split else _documents(request, base, base), request.window)
    if request.against is None:
        return Outcome(results=(result,), models=(base,))
    other = load_model(request.against, request.against_checkpoint, mesh=mesh)
    second = measure(other, _documents(request, base, other), request.window)
    pair = compare(result, second, same_tokenizer=same_tokens(base, other))
    return Outcome(results=(result, second), models=(base, other), pair=pair)


def _measure(
    request: Request,
    base: LoadedRun,
    model: LoadedRun,
    documents: Iterable[Document] | None,
    window: int | None,
    on_progress: Callable[[int], None] | None,
) -> Result:
    part = "" if model is base else "-against"
    return evaluate(
        model,
        documents,
        window=window,
        stride=request.stride,
        windows=request.windows or ("transformers" if request.stream and not request.lengths else "sliding"),
        batch_size=request.batch_size,
        detailed=request.detailed,
        kept=request.kept,
        fills_window=request.stream,
        results=_results_file(request, base, f"-{window}" if request.lengths else part),
        on_progress=on_progress,
    )


def _documents(request: Request, base: LoadedRun, model: LoadedRun) -> Iterable[Document]:
    """The documents of a request as a model reads them."""
    if not request.texts and not request.stream and same_tokens(base, model):
        return from_split(base.dataset(), "validation")
    return tokenized(model.tokenizer, _texts(request, base))


def _texts(request: Request, base: LoadedRun) -> Iterable[Text]:
    if request.texts:
        texts: Iterable[Text] = read_texts(request.texts, request.field, request.domain_field)
    else:
        texts = texts_of_split(base.dataset(), "validation")
    return joined(texts, request.separator) if request.stream else texts


def _results_file(request: Request, base: LoadedRun, part: str) -> pathlib.Path | None:
    """The file of the scores of documents; `part` is added to the name for each further evaluation of a request."""
    if request.results is not None:
        return request.results.with_name(request.results.name + part)
    if not request.resume:
        return None
    if not isinstance(base.folder, pathlib.Path) or not (base.folder / "checkpoints").is_dir():
        raise UserError(
            f"{base.folder} is no run folder on this machine: --resume cannot keep results there; give --results=FILE"
        )
    values = dataclasses.asdict(request) | {"step": base.step, "results": None}
    name = hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]
    return base.folder / RESULTS / f"{name}{part}.jsonl"
