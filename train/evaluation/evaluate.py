"""The perplexity of any texts on any run: the function behind launch.evaluate and launch.quickstart, and for scripts.

    run = load_run("runs/quickstart")
    evaluate(run).measures["bits_per_byte"].value
    evaluate(run)                                             # the validation split of its data
    evaluate(run, ["one text", "another"])
    evaluate(run, from_files(run.tokenizer, ["book.txt", "notes/**/*.md"]), stride=64)

The result holds loss, perplexity and bits per byte, each with its standard error over documents, and the sizes that
they cover. A document begins after the tokenizer's `begin_of_document`, as in training and in generation.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from train.data.tokenizers.unrestored import UnrestoredText
from train.evaluation.documents import Document, from_split, from_text
from train.evaluation.measures import Estimate, Tally
from train.evaluation.perplexity import score
from train.parallel.mesh import Mesh
from train.run.loading import LoadedRun

MEASURES = ("loss", "perplexity", "word_loss", "word_perplexity", "bits_per_byte")
UNKNOWN = Estimate(math.nan, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The measures of some documents on one checkpoint of a run.

    Attributes:
      run: the run folder.
      step: the step of the checkpoint.
      tally: the scored sums of every document, and its size.
      measures: `tally.measures()`: loss, perplexity, word_loss, word_perplexity, bits_per_byte.
      window, stride: the values that were used.
      first_token: whether a document's first token was scored after the mark that begins a document, or left out.
      left_out_tokens, left_out_bytes: the size of the first tokens that were left out, over all documents.
      documents_not_restored: the number of documents of which the tokenizer loses a part. The lost bytes were not
        predicted, so the bits per byte are too low.
      seconds: the duration of the evaluation.
    """

    run: str
    step: int
    tally: Tally
    measures: dict[str, Estimate]
    window: int
    stride: int
    first_token: Literal["after the mark that begins a document", "left out"]
    left_out_tokens: int
    left_out_bytes: int
    documents_not_restored: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values; None for a number that is not finite, and for an error that is not known.

        So a perplexity that is too large for a float is None; the loss is its logarithm.
        """
        identity = {"run": self.run, "step": self.step, "documents": len(self.tally.entries)}
        found: dict[str, Any] = identity | {name: self.tally.count(name) for name in ("tokens", "bytes", "words")}
        for name in MEASURES:
            estimate = self.measures.get(name, UNKNOWN)  # a text without words has no measure per word
            found[name] = finite_or_none(estimate.value)
            found[f"{name}_standard_error"] = finite_or_none(estimate.standard_error)
        copied = ("window", "stride", "first_token", "left_out_tokens", "left_out_bytes", "documents_not_restored")
        return found | {name: getattr(self, name) for name in copied} | {"seconds": round(self.seconds, 3)}


def evaluate(
    run: LoadedRun,
    documents: Iterable[Document | str] | None = None,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Result:
    """Measures a run on documents, by a window that slides over each of them (see train.evaluation.perplexity).

    Args:
      run: the result of `train.run.loading.load_run`.
      documents: texts, or documents of `train.evaluation.documents`; None for the validation split of the run's data.
      window: tokens in the window; None for the length of the training sequences.
      stride: tokens that the window moves by; None for half of the window.
      batch_size: windows at a time; None for 16,384 tokens on a device, 64 windows at most.
      mesh: the mesh to measure on; the parameters are moved there. None for the mesh on which the run was loaded.
      on_progress: called after every batch with the number of tokens scored so far.

    Raises:
      UserError: for a window or a stride that is out of range, for texts that cannot be read, for a mesh that does not
        fit the devices or the model, and when there is no token to score.
    """
    run = run if mesh is None else run.on(mesh)
    begin = run.tokenizer.begin_of_document
    window = run.experiment.data.sequence_length if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    start = time.monotonic()
    num_unrestored = left_out_tokens = left_out_bytes = 0
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
            num_unrestored += not document.restored
            if begin is None and len(document.ids):
                left_out_tokens += 1
                left_out_bytes += document.first.bytes
            yield document

    tally = score(
        run.experiment.model,
        run.params,
        read_documents(),
        begin=begin,
        layout=run.layout,
        stride=stride,
        window=window,
        batch_size=batch_size,
        on_progress=on_progress,
    )
    return Result(
        run=str(run.folder),
        step=run.step,
        tally=tally,
        measures=tally.measures(),
        window=window,
        stride=stride,
        first_token="left out" if begin is None else "after the mark that begins a document",
        left_out_tokens=left_out_tokens,
        left_out_bytes=left_out_bytes,
        documents_not_restored=num_unrestored if known is None else known.documents,
        seconds=time.monotonic() - start,
    )


def finite_or_none(value: float | None) -> float | None:
    """A number; None for infinity and NaN, which JSON cannot represent."""
    return value if value is not None and math.isfinite(value) else None
