"""Training data that are conversations: rows of messages, a chat template, and the tokens that count."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from model.errors import UserError
from model.options.field_marks import EXECUTION_ONLY
from model.options.json import to_json
from train.data.config import (
    BestFit,
    Bytes,
    HuggingFace,
    SentencePieceFile,
    TokenizerOf,
    problems_of_batches,
    problems_of_minima,
)
from train.data.interface import CheckTokenizer, DataOption, Engine
from train.data.ramp import Ramp
from train.files.paths import IS_PATH, AnyPath, literal_path, local_path

if TYPE_CHECKING:
    from train.data.conversations.batches import ConversationBatches, ConversationEvaluation
    from train.data.prepare.progress import Reporter
    from train.data.shards.dataset import Dataset

# ------------------------------------------------------------------------------------------------------- templates


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainTemplate:
    """Cairn's own: the role, a line, the message; an answer ends with the token that ends documents."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateFile:
    """A Jinja file; `run` is a run whose published files name the marks that it reads, such as `bos_token`."""

    path: str = dataclasses.field(metadata=IS_PATH)
    run: str | None = dataclasses.field(default=None, metadata=IS_PATH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateOf:
    """The template of a run: of the conversations that it was trained on, or of its published files."""

    run: str = dataclasses.field(metadata=IS_PATH)


# ------------------------------------------------------------------------------------------------------ validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutConversations:
    """Holds out about `fraction` of the conversations, by a seeded hash of their messages: equal ones stay together."""

    fraction: float = 0.05
    seed: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not 0 < self.fraction < 1:
            yield "fraction", f"expected a share between 0 and 1, got {self.fraction}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparateConversations:
    """Holds out nothing: the conversations to validate on have a path of their own."""

    path: str = dataclasses.field(metadata=IS_PATH)


# --------------------------------------------------------------------------------------------------------- packing


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneToARow:
    """Every conversation has a row of its own, and the rest of the row is padding."""


# ------------------------------------------------------------------------------------------------------------ data


class RowsOption(DataOption):
    """An option of data that are rows of files, which a chat template writes: the base of several.

    Its fields include those that are declared here; `token_settings` are the fields that decide the tokens of a
    prepared folder, apart from the rows.
    """

    token_settings: ClassVar[tuple[str, ...]]

    if TYPE_CHECKING:

        @property
        def path(self) -> str:
            """The files of rows."""

        @property
        def tokenizer(self) -> SentencePieceFile | HuggingFace | Bytes | TokenizerOf | None:
            """None for that of the run that training starts from."""

        @property
        def template(self) -> Any:
            """The chat template; None for that of the run that training starts from, or the plain one."""

        @property
        def validation(self) -> Any:
            """The rows that are held out; those of a path of their own have a field `path`."""

    @property
    def paths(self) -> dict[str, str]:
        """The paths of rows, under the names of their fingerprints (train/data/prepare/settings.py)."""
        own = getattr(self.validation, "path", None)
        return {"0": self.path} if own is None else {"0": self.path, "validation": own}

    def starting_from(self, run: str | None) -> Self:
        """See `DataOption`: takes the tokenizer and the template of the run where none is given."""
        option: Any = self
        if run is None:
            started: Self = self if self.template is not None else dataclasses.replace(option, template=PlainTemplate())
            return started
        from train.data.conversations.found_template import find_chat_template
        from train.data.shards.dataset import dataset_of_run

        folder = literal_path(run)
        try:
            dataset = dataset_of_run(folder)
        except UserError:  # refused by training.init_from before the first step; later it may be gone
            return self
        changes: dict[str, Any] = {}
        if self.tokenizer is None:
            changes["tokenizer"] = TokenizerOf(path=str(dataset.folder))
        if self.template is None:
            found = find_chat_template(folder, dataset.tokenizer)
            changes["template"] = PlainTemplate() if found is None else TemplateOf(run=run)
        elif isinstance(self.template, TemplateFile) and self.template.run is None:
            changes["template"] = dataclasses.replace(self.template, run=run)
        started = dataclasses.replace(option, **changes)
        return started

    def require_validation(self) -> None:
        """See `DataOption`."""
        from train.data.conversations.rows import files_of

        if (path := self.paths.get("validation")) is not None:
            files_of(path)

    def shared_settings(self) -> Mapping[str, Any] | None:
        """See `DataOption`; None where the run that training starts from decides some of them."""
        if self.tokenizer is None or self.template is None:
            return None
        return {name: to_json(getattr(self, name)) for name in ("path", *self.token_settings)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversations(RowsOption):
    """Conversations to learn from. Batch n is a pure function of this option, of the files, and of n.

    Rows hold as many conversations as fit; none sees another, and none is cut. The tokens of a conversation are those
    that the chat template writes, without further marks, and the loss is a mean over the tokens that count.

    Attributes:
      path: the file of rows, a folder of such files or a glob: .jsonl or .json, perhaps compressed
        (train/data/conversations/rows.py has the forms of a row).
      tokenizer: None for that of the run that training starts from (training.init_from).
      template: None for that of the run that training starts from; the plain template if it has none.
      mask: the tokens that count: of all answers of the assistant, of the last one, or all tokens.
      validation: the conversations that are held out.
      packing: how conversations fill rows.
      too_long: a conversation longer than a row is refused ("refuse"), left out ("drop"), or loses its last turns until
        it fits ("shorten"); the number of those is told.
      batch_size: the rows of all hosts together; with a `ramp` batches grow to it.
      sequence_length: T, the tokens of a row that are inputs; a conversation may have one token more.
      seed: the seed of the order.
      prefetch: the number of batches read ahead.
    """

    token_settings = "tokenizer", "template", "mask", "too_long", "validation", "sequence_length"

    path: str = dataclasses.field(metadata=IS_PATH)
    tokenizer: SentencePieceFile | HuggingFace | Bytes | TokenizerOf | None = None
    template: PlainTemplate | TemplateFile | TemplateOf | None = None
    mask: Literal["assistant", "last", "all"] = "assistant"
    validation: HeldOutConversations | SeparateConversations = HeldOutConversations()
    packing: BestFit | OneToARow = BestFit()
    too_long: Literal["refuse", "drop", "shorten"] = "refuse"
    batch_size: int = 16
    ramp: Ramp | None = None
    sequence_length: int = 256
    seed: int = 0
    prefetch: int = dataclasses.field(default=16, metadata=EXECUTION_ONLY)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_minima(self, batch_size=1, sequence_length=2, seed=0, prefetch=0)
        yield from problems_of_batches(self, "rows")
        if not self.path:
            yield "path", "expected the path of a file of conversations, got an empty string"
        if self.ramp is not None and self.batch_size >= 1:
            yield from ((f"ramp.{name}", message) for name, message in self.ramp.problems_with(self.batch_size))

    @property
    def cross_document_attention(self) -> bool:
        """Whether conversations see each other: never."""
        return False

    @property
    def no_text(self) -> str | None:
        """See `DataOption`."""
        return "conversations are no running text"

    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """See `DataOption`; one process does it."""
        from train.data.conversations.prepare import prepare_conversations

        return prepare_conversations(self, local_path(into, "a dataset that is made"), progress, check)

    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> ConversationBatches:
        """See `DataOption`."""
        from train.data.conversations.batches import ConversationBatches

        return ConversationBatches(dataset, self, "train", fields)

    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> ConversationEvaluation:
        """See `DataOption`."""
        from train.data.conversations.batches import ConversationEvaluation

        return ConversationEvaluation(dataset, self, split, limit, rows)

    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """See `DataOption`: every token with its role, and whether it counts."""
        from train.data.conversations.show import shown_step

        return shown_step(self.training_batches(dataset, ("tokens", "targets")), step, rows)
