"""Further texts that a run is measured on while it trains, each under a name of its own."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from model.errors import UserError
from train.data.config import Data, Source, TokenizerOf
from train.data.prepare.prepare import prepare
from train.data.prepare.progress import Reporter
from train.data.shards.dataset import Dataset, is_dataset, open_dataset
from train.data.text.sources import list_units
from train.run.paths import IS_PATH

FOLDER = "evaluations"  # of a run
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedEvaluation:
    """The loss on another text during the run. It decides nothing: the best checkpoint is that of the validation split.

    Attributes:
      name: what its lines in metrics.jsonl and its curve are called.
      path: the text: any that `Source.path` takes. Of a dataset folder it is the validation split, or all of it where
        it has none; other text is tokenized as the training text is, once, into RUN/evaluations/NAME.
      field: names the text in tables of documents.
      every: steps between evaluations; the last step is always evaluated.
      max_batches: batches of the text to use; None for all of it.
    """

    name: str
    path: str = dataclasses.field(metadata=IS_PATH)
    field: str = "text"
    every: int = 500
    max_batches: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if not _NAME.fullmatch(self.name):
            yield "name", f"expected letters, digits, _, - and ., 64 at most, got {self.name[:80]!r}"
        if self.name == "validation":
            yield "name", "'validation' is the split that `evaluation` measures; take another name"
        for name in ("every", "max_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield name, f"must be at least 1, got {value}"


def problems_of_names(options: Sequence[NamedEvaluation]) -> Iterator[tuple[str, str]]:
    """Yields the paths of names that two evaluations share; their folders and curves would be one."""
    seen: dict[str, int] = {}
    for i, option in enumerate(options):
        first = seen.setdefault(option.name.lower(), i)  # some file systems see no difference
        if first != i:
            yield f"{i}.name", f"{option.name!r} is the name of evaluations.{first} too; give each its own"


def dataset_folder(option: NamedEvaluation, run: pathlib.Path) -> pathlib.Path:
    """Where the tokens of a text lie: the dataset that its path names, or the one that the run makes of it."""
    return pathlib.Path(option.path) if is_dataset(option.path) else run / FOLDER / option.name


def refuse_missing(options: Sequence[NamedEvaluation], run: pathlib.Path) -> None:
    """Raises UserError for a text that is not there or cannot be read, unless it is prepared; reads little of it."""
    for i, option in enumerate(options):
        if not is_dataset(dataset_folder(option, run)):
            try:
                list_units(Source(path=option.path, field=option.field))
            except UserError as error:
                raise UserError(f"evaluations.{i}.path ({option.name}): {error}") from None


def prepare_texts(options: Sequence[NamedEvaluation], run: pathlib.Path, dataset: Dataset, progress: Reporter) -> None:
    """Tokenizes the texts as the run's dataset is tokenized.

    A text that was prepared is taken as it was then, so that a run that goes on measures the same. Raises UserError for
    text that cannot be read, and for a dataset folder of another tokenizer.
    """
    for option in options:
        folder = dataset_folder(option, run)
        if not is_dataset(folder):
            source, tokenizer = Source(path=option.path, field=option.field), TokenizerOf(path=str(dataset.folder))
            prepare(Data(path=(source,), tokenizer=tokenizer, validation=None), folder, progress)
        if open_dataset(folder).tokenizer.fingerprint() != dataset.tokenizer.fingerprint():
            raise UserError(
                f"evaluations: {option.name}: {folder} was made with another tokenizer than {dataset.folder}; give the "
                "text itself, or a dataset that was made with the same one"
            )


def evaluated_split(option: NamedEvaluation, run: pathlib.Path) -> tuple[Dataset, str]:
    """The dataset of a text that is prepared, and the split that is measured."""
    dataset = open_dataset(dataset_folder(option, run))
    return dataset, "validation" if "validation" in dataset.about["splits"] else "train"
