"""The perplexity of any texts on any model: the function behind launch.evaluate and launch.quickstart, and for scripts.

    run = load_model("runs/quickstart")                       # or a Hugging Face folder
    evaluate(run).measures["bits_per_byte"].value
    evaluate(run)                                             # the validation split of its data
    evaluate(run, ["one text", "another"])
    evaluate(run, from_files(run.tokenizer, ["book.txt", "notes/**/*.md"]), stride=64)
    evaluate(run, from_files(run.tokenizer, ["domains.jsonl"]), detailed=True).as_json()

The result holds loss, perplexity, bits per byte and per character, each with its standard error over documents, and the
sizes that they cover. A document begins after the tokenizer's `begin_of_document`, as in training and in generation.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args

import jax
import numpy as np

from model.errors import UserError
from train.data.tokenizers.unrestored import UnrestoredText
from train.evaluation.details import Details, measure_details
from train.evaluation.document_scores import NOTHING_KEPT, DocumentScore, Kept
from train.evaluation.documents import Document, from_split, from_text
from train.evaluation.domains import macro_average, tallies_by_domain
from train.evaluation.measures import Estimate, Tally, exponential, ratio
from train.evaluation.perplexity import score
from train.evaluation.pseudo import Marks, marks_of, score_masked
from train.evaluation.stored_scores import StoredScores, fingerprint_of_params
from train.evaluation.windows import WindowKind
from train.parallel.mesh import Mesh
from train.run.loading import LoadedRun

MEASURES = ("loss", "perplexity", "word_loss", "word_perplexity", "bits_per_byte", "bits_per_character")
COUNTS = ("tokens", "bytes", "words", "characters")
UNKNOWN = Estimate(math.nan, None)
GIVEN_OTHERS: TypeAlias = Literal["given all other tokens, as every token"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The measures of some documents on one checkpoint of a run.

    Attributes:
      run: the run folder, or the Hugging Face folder.
      step: the step of the checkpoint.
      tally: the scored sums of every document, and its size.
      measures: `tally.measures()`: loss, perplexity, word_loss, word_perplexity, bits_per_byte, bits_per_character.
      window, stride, windows: the values that were used.
      first_token: whether a document's first token was scored after the mark that begins a document, left out, or as
        every token given all others: then the perplexity is a pseudo-perplexity (train/evaluation/pseudo.py).
      left_out_tokens, left_out_bytes: the size of the first tokens that were left out, over all documents.
      documents_not_restored: the number of documents of which the tokenizer loses a part. The lost bytes were not
        predicted, so the bits per byte are too low.
      seconds: the duration of the evaluation.
      scores: the scores of the documents.
      details: accuracy, entropy, calibration and the loss against the position, if they were asked for.
    """

    run: str
    step: int
    tally: Tally
    measures: dict[str, Estimate]
    window: int
    stride: int
    first_token: Literal["after the mark that begins a document", "left out", GIVEN_OTHERS]
    left_out_tokens: int
    left_out_bytes: int
    documents_not_restored: int
    seconds: float
    windows: WindowKind = "sliding"
    scores: tuple[DocumentScore, ...] = ()
    details: Details | None = None

    @property
    def domains(self) -> dict[str, Tally]:
        """The tally of each domain; one for all documents if the text has no domains."""
        return tallies_by_domain(self.scores)

    @property
    def transformers_perplexity(self) -> Estimate | None:
        """The perplexity with the weights of windows of the documentation of `transformers`; None for other windows."""
        if self.windows != "transformers":
            return None
        nll_D, tokens_D = np.array([one.weighted for one in self.scores]).T
        return exponential(ratio(nll_D, tokens_D))

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values; None for a number that is not finite, and for an error that is not known.

        So a perplexity that is too large for a float is None; the loss is its logarithm.
        """
        found: dict[str, Any] = {"run": self.run, "step": self.step} | tally_as_json(self.tally, self.measures)
        if (perplexity := self.transformers_perplexity) is not None:
            found["transformers_perplexity"] = finite_or_none(perplexity.value)
        copied = ("window", "stride", "windows", "first_token", "left_out_tokens", "left_out_bytes")
        found |= {name: getattr(self, name) for name in (*copied, "documents_not_restored")}
        domains = self.domains
        if len(domains) > 1:
            measures = {name: tally.measures() for name, tally in domains.items()}
            found["domains"] = {name: tally_as_json(tally, measures[name]) for name, tally in domains.items()}
            found["macro_average"] = estimates_as_json(macro_average(measures.values()))
        if self.details is not None:
            found["details"] = finite_values(dataclasses.asdict(self.details))
        return found | {"seconds": round(self.seconds, 3)}


def tally_as_json(tally: Tally, measures: dict[str, Estimate]) -> dict[str, Any]:
    """The counts and the measures of some documents as JSON values."""
    counts = {"documents": len(tally.entries)} | {name: tally.count(name) for name in COUNTS}
    return counts | estimates_as_json(measures)


def estimates_as_json(measures: dict[str, Estimate]) -> dict[str, float | None]:
    """Every measure and its error; None for a measure that these documents do not have."""
    found = {}
    for name in MEASURES:
        estimate = measures.get(name, UNKNOWN)  # a text without words has no measure per word
        found[name] = finite_or_none(estimate.value)
        found[f"{name}_standard_error"] = finite_or_none(estimate.standard_error)
    return found


def evaluate(
    run: LoadedRun,
    documents: Iterable[Document | str] | None = None,
    *,
    window: int | None = None,
    stride: int | None = None,
    windows: WindowKind = "sliding",
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    detailed: bool = False,
    kept: Kept = NOTHING_KEPT,
    fills_window: bool = False,
    results: pathlib.Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Result:
    """Measures a run on documents, by a window that slides over each of them (see train.evaluation.perplexity).

    Args:
      run: the result of `train.conversion.loading.load_model` or `train.run.loading.load_run`.
      documents: texts, or documents of `train.evaluation.documents`; None for the validation split of the run's data.
      window: tokens in the window; None for the length of the training sequences.
      stride: tokens that the window moves by; None for half of the window.
      windows: the rule of the windows (train/evaluation/windows.py). With "transformers" a document begins after a mark
        only if the tokenizer has one that begins documents alone, as a published tokenizer puts it there.
      batch_size: windows at a time; None for 16,384 tokens on a device, 64 windows at most.
      mesh: the mesh to measure on; the parameters are moved there. None for the mesh on which the run was loaded.
      detailed: whether to measure accuracy, entropy, calibration and the loss against the position too.
      kept: how many tokens to keep with their losses, in `Result.scores`.
      fills_window: whether a document that is shorter than the window is an error.
      results: a file that gets the scores of finished documents, and from which an interrupted call continues.
      on_progress: called after every batch with the number of tokens scored so far.

    Raises:
      UserError: for a window or a stride that is out of range, for texts that cannot be read, for a mesh that does not
        fit the devices or the model, for a domain without a token, for a file of other results, and when there is no
        token to score.
    """
    run = run if mesh is None else run.on(mesh)
    marks = marks_of(run.experiment, run.tokenizer)
    if marks is not None and (windows != "sliding" or detailed or fills_window):
        raise UserError(
            "this model sees a text from both sides, and its tokens are scored given all others in its own windows: "
            "leave out --windows, --stream, --lengths and --details"
        )
    begin = run.tokenizer.begin_of_document if windows == "sliding" else run.tokenizer.own_begin_of_document
    window = run.experiment.data.sequence_length if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    start = time.monotonic()
    num_unrestored = left_out_tokens = left_out_bytes = 0
    domains: dict[str, str] = {}  # and a document of each
    known: UnrestoredText | None = None  # for a split: counted when its text was tokenized
    if documents is None:
        dataset = run.dataset()
        given: Iterable[Document | str] = from_split(dataset, "validation")
        known = dataset.unrestored("validation")
    else:
        given = documents

    def read_documents() -> Iterator[Document]:
        nonlocal num_unrestored, left_out_tokens, left_out_bytes
        for number, document in enumerate(given, start=1):
            if isinstance(document, str):
                document = from_text(run.tokenizer, f"text {number}", document)
            if fills_window and len(document.ids) + (begin is not None) < window:
                raise _too_short(document, window)
            domains.setdefault(document.domain, document.name)
            num_unrestored += not document.restored
            if begin is None and marks is None and len(document.ids):
                left_out_tokens += 1
                left_out_bytes += document.first.bytes
            yield document

    with contextlib.ExitStack() as stack:
        stored = None
        if results is not None:
            identity = _identity(run) | {"begin": begin, "window": window, "stride": stride, "windows": windows}
            identity |= {"batch_size": batch_size, "detailed": detailed, "kept": list(dataclasses.astuple(kept))}
            stored = stack.enter_context(contextlib.closing(StoredScores(results, identity)))
        if marks is None:
            scorer = functools.partial(score, begin=begin, kind=windows, detailed=detailed)
        else:
            scorer = functools.partial(score_masked, marks=marks)
        scores = scorer(
            run.experiment.model,
            run.params,
            read_documents(),
            layout=run.layout,
            stride=stride,
            window=window,
            batch_size=batch_size,
            kept=kept,
            stored=None if stored is None else stored.scores,
            on_finish=(lambda score: None) if stored is None else stored.add,
            on_progress=on_progress,
        )
    for domain in domains.keys() - {each.domain for each in scores}:
        raise UserError(
            f"the domain {domain!r} has no token to score, as in {domains[domain]}; give it a text, or leave it out"
        )
    tally = Tally(each.sums for each in scores)
    return Result(
        run=str(run.folder),
        step=run.step,
        tally=tally,
        measures=tally.measures(),
        window=window,
        stride=stride,
        windows=windows,
        first_token=_first_token(begin, marks),
        left_out_tokens=left_out_tokens,
        left_out_bytes=left_out_bytes,
        documents_not_restored=num_unrestored if known is None else known.documents,
        seconds=time.monotonic() - start,
        scores=tuple(scores),
        details=measure_details([s.details for s in scores if s.details is not None], window) if detailed else None,
    )


def _identity(run: LoadedRun) -> dict[str, Any]:
    """The model of stored results, and all else that changes their last digits."""
    return {
        "run": str(run.folder),
        "step": run.step,
        "parameters": fingerprint_of_params(run.params),
        "tokenizer": run.tokenizer.fingerprint(),
        "context_length": run.experiment.model.context_length,
        "mesh": {name: size for name, size in run.mesh.shape.items() if size > 1},
        "device": run.mesh.devices.flat[0].device_kind,
        "jax": jax.__version__,
    }


def _first_token(begin: int | None, marks: Marks | None) -> Any:
    """The value of `Result.first_token`."""
    if marks is not None:
        return get_args(GIVEN_OTHERS)[0]
    return "left out" if begin is None else "after the mark that begins a document"


def _too_short(document: Document, window: int) -> UserError:
    where = f" of {document.domain}" if document.domain not in ("", document.name) else ""
    return UserError(
        f"{document.name}{where} has {len(document.ids):,} tokens, which do not fill a window of {window:,}; give more "
        "text, or a shorter --window"
    )


def finite_values(values: Any) -> Any:
    """Values for JSON, also of nested NumPy values; numbers that are not finite become None."""
    if isinstance(values, Mapping):
        return {str(name): finite_values(value) for name, value in values.items()}
    if isinstance(values, np.ndarray | np.generic):
        return finite_values(values.tolist())
    if isinstance(values, list | tuple):
        return [finite_values(value) for value in values]
    return finite_or_none(values) if isinstance(values, float) else values


def finite_or_none(value: float | None) -> float | None:
    """A number; None for infinity and NaN, which JSON cannot represent."""
    return value if value is not None and math.isfinite(value) else None
