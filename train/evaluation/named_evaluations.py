"""Further texts and probes to evaluate during training, each with a name."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from model.errors import UserError
from train.data.config import Data, Source, TokenizerOf
from train.data.generated import Generated
from train.data.prepare import settings
from train.data.prepare.prepare import prepare
from train.data.prepare.progress import Reporter
from train.data.shards.dataset import Dataset, is_dataset, open_dataset
from train.data.text.sources import list_units
from train.evaluation.probes.induction import Induction
from train.evaluation.probes.letters import Letters
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.needle import Needle
from train.evaluation.probes.recall import Recall
from train.files.files import read_json
from train.files.paths import IS_PATH, AnyPath, literal_path

FOLDER = "evaluations"  # in a run folder
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedEvaluation:
    """The loss on another text, or in other windows, during the run.

    It decides nothing: the validation split decides the best checkpoint.

    Attributes:
      name: the name of its lines in metrics.jsonl and of its curve.
      path: the text, as in `Source.path`. A dataset folder stands for its validation split, or for all of it if it has
        none; other text is tokenized once, with the run's tokenizer, into RUN/evaluations/NAME. None for the run's own
        validation split, in windows of another length.
      field: the field of the text in tables of documents.
      sequence_length: the tokens of a window; None for data.sequence_length. A longer one shows what the model does
        beyond the length that it was trained on.
      every: steps between evaluations; the last step is always evaluated.
      max_batches: the number of batches to use; None for all of the text.
    """

    name: str
    path: str | None = dataclasses.field(default=None, metadata=IS_PATH)
    field: str = "text"
    every: int = 500
    max_batches: int | None = None
    sequence_length: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _problems_of_name(self.name)
        for name in ("every", "max_batches", "sequence_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield name, f"must be at least 1, got {value}"
        if self.path is None and self.sequence_length is None:
            yield "path", "is missing: without a text or a sequence_length this is the evaluation of the run itself"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeEvaluation:
    """The findings of a probe during the run: its numbers, and the losses of known strategies. It decides nothing.

    Attributes:
      name: the name of its lines in metrics.jsonl and of its curve.
      probe: the probe (train/evaluation/probes/).
      every: steps between evaluations; the last step is always evaluated.
      num_sequences: the sequences to measure; of `Letters` the questions.
    """

    name: str
    probe: MarkovChains | Induction | Recall | Needle | Letters
    every: int = 500
    num_sequences: int = 128

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _problems_of_name(self.name)
        for name in ("every", "num_sequences"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InductionEvaluation:
    """The rise of induction heads during the run. It decides nothing.

    The scores of the best heads on random tokens that are repeated (train/inspection/attention/scores.py), and the loss
    late in the context less the loss early in it on the validation split: Olsson et al. 2022, "In-context Learning and
    Induction Heads", with the 500th and the 50th token.

    Attributes:
      name: the name of its lines in metrics.jsonl and of its curves.
      every: steps between evaluations; the last step is always evaluated.
      num_sequences: the rows of random tokens.
      late, early: the tokens whose losses are compared, counted from 1 in a document, or in the window where documents
        see each other.
      max_batches: the batches of the validation split to use; None for all of it.
    """

    name: str
    every: int = 500
    num_sequences: int = 8
    late: int = 500
    early: int = 50
    max_batches: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _problems_of_name(self.name)
        for name in ("every", "num_sequences", "early", "max_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield name, f"must be at least 1, got {value}"
        if self.late <= self.early:
            yield "late", f"must be above early={self.early}, got {self.late}"


AnyEvaluation = NamedEvaluation | ProbeEvaluation | InductionEvaluation


def _problems_of_name(name: str) -> Iterator[tuple[str, str]]:
    if not _NAME_PATTERN.fullmatch(name):
        yield "name", f"expected letters, digits, _, - and ., 64 at most, got {name[:80]!r}"
    if name == "validation":
        yield "name", "'validation' is the split that `evaluation` measures; take another name"


def problems_of_evaluations(
    options: Sequence[AnyEvaluation], data: Data | Generated, context_length: int
) -> Iterator[tuple[str, str]]:
    """Yields the names that two evaluations share, windows longer than the model's context, and windows of no text.

    Two evaluations of one name would write to the same folder and the same curve.
    """
    seen: dict[str, int] = {}
    for i, option in enumerate(options):
        first = seen.setdefault(option.name.lower(), i)  # some file systems ignore the case of letters
        if first != i:
            yield f"{i}.name", f"{option.name!r} is the name of evaluations.{first} too; give each its own"
        if isinstance(option, InductionEvaluation) and option.late > data.sequence_length:
            yield f"{i}.late", f"{option.late} is beyond the windows of data.sequence_length={data.sequence_length}"
        if not isinstance(option, NamedEvaluation) or option.sequence_length is None:
            continue
        if option.sequence_length > context_length:
            found = f"{option.sequence_length} is longer than model.context_length={context_length}"
            yield f"{i}.sequence_length", found
        if isinstance(data, Generated):
            yield f"{i}.sequence_length", "needs windows of a text; a task makes sequences of its own length"


def changed_texts(earlier: Sequence[AnyEvaluation], now: Sequence[AnyEvaluation]) -> Iterator[str]:
    """Yields the changes of evaluations that keep their name: their curve would continue with losses of other text."""
    known = {option.name.lower(): option for option in earlier}
    for option in now:
        if (old := known.get(option.name.lower())) is not None:
            one, other = (_what_is_measured(value) for value in (old, option))
            for field in one | other:
                if (before := one.get(field)) != (after := other.get(field)):
                    yield f"evaluations ({option.name}): {field}: {before} -> {after}; a new name makes it a new one"


def _what_is_measured(option: AnyEvaluation) -> dict[str, Any]:
    """The fields that decide the numbers of an evaluation."""
    fields = (field.name for field in dataclasses.fields(option))
    return {name: getattr(option, name) for name in fields if name not in ("name", "every")}


def dataset_folder(option: NamedEvaluation, run: pathlib.Path) -> AnyPath:
    """The folder of a text's tokens: the dataset at its path, or the dataset that the run makes."""
    assert option.path is not None
    return literal_path(option.path) if is_dataset(option.path) else run / FOLDER / option.name


def refuse_missing_texts(options: Sequence[AnyEvaluation], run: pathlib.Path) -> None:
    """Raises UserError for a missing or unreadable text that is not tokenized yet; reads little of it."""
    for i, option in enumerate(options):
        if not isinstance(option, NamedEvaluation) or option.path is None:
            continue
        if not is_dataset(dataset_folder(option, run)):
            try:
                list_units(Source(path=option.path, field=option.field))
            except UserError as error:
                raise UserError(f"evaluations.{i}.path ({option.name}): {error}") from None


def prepare_texts(options: Sequence[AnyEvaluation], run: pathlib.Path, dataset: Dataset, progress: Reporter) -> None:
    """Tokenizes the texts with the tokenizer of the run's dataset.

    A text is tokenized once and not read again, so a resumed run measures the same tokens. Raises UserError for text
    that cannot be read, and for a dataset folder of another tokenizer.
    """
    for option in options:
        if not isinstance(option, NamedEvaluation) or option.path is None:
            continue
        folder = dataset_folder(option, run)
        if not is_dataset(folder):
            source, tokenizer = Source(path=option.path, field=option.field), TokenizerOf(path=str(dataset.folder))
            text = Data(path=(source,), tokenizer=tokenizer, validation=None)
            prepare(text, run / FOLDER / option.name, progress)
        elif folder == run / FOLDER / option.name:
            _refuse_other_text(option, run / FOLDER / option.name)
        if open_dataset(folder).tokenizer.fingerprint() != dataset.tokenizer.fingerprint():
            raise UserError(
                f"evaluations: {option.name}: {folder} was made with another tokenizer than {dataset.folder}; give the "
                "text itself, or a dataset that was made with the same one"
            )


def _refuse_other_text(option: NamedEvaluation, folder: pathlib.Path) -> None:
    """Raises UserError when a folder has the tokens of an earlier text of the same name, not of the option's text."""
    path = folder / settings.FILE
    stored_settings = read_json(path, schema=settings.SCHEMA) if path.is_file() else {}
    for source in stored_settings.get("sources", []):
        if (source["path"], source.get("field", option.field)) != (option.path, option.field):
            raise UserError(
                f"evaluations: {option.name}: {folder} was made from {source['path']}, not from {option.path}; take "
                "another name, or delete that folder if no line of metrics.jsonl belongs to it"
            )


def evaluated_split(option: NamedEvaluation, run: pathlib.Path, own: Dataset) -> tuple[Dataset, str]:
    """The dataset of a tokenized text, and the name of the split to measure; `own` is the dataset of the run."""
    if option.path is None:
        return own, "validation"
    dataset = open_dataset(dataset_folder(option, run))
    return dataset, "validation" if "validation" in dataset.description["splits"] else "train"
