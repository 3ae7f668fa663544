"""Prompts to answer, for reinforcement learning: rows of jsonl with a prompt and the fields that a reward reads.

    {"prompt": [{"role": "user", "content": "reverse abc"}], "answer": "cba"}
    {"prompt": "reverse abc = ", "answer": "cba"}

A list of messages is written by the chat template, with the words that ask for an answer; a text is taken as it is,
after the token that begins documents. The dataset folder holds the prompts as ids, so that a run needs the file once;
it is checked, and refused where it was made with other settings or from another file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from model.errors import UserError
from model.options.field_marks import EXECUTION_ONLY
from train.data.batches.coverage import Coverage
from train.data.batches.prefetch import EndlessBatches
from train.data.batches.rows import DocumentSpan
from train.data.config import (
    Bytes,
    HuggingFace,
    SentencePieceFile,
    TokenizerOf,
    problems_of_batches,
    problems_of_minima,
)
from train.data.conversations.option import PlainTemplate, RowsOption, TemplateFile, TemplateOf
from train.data.interface import CheckTokenizer, Engine
from train.data.prepare.progress import Reporter
from train.data.shards import dataset as datasets
from train.data.shards.dataset import Dataset
from train.data.tokenizers.interface import Tokenizer
from train.files.files import replace_file
from train.files.paths import IS_PATH, AnyPath, expand_paths, local_path

FILE = "prompts.{split}.jsonl"
Split = Literal["train", "validation"]


class Prompt(NamedTuple):
    """A prompt: its ids, its text, the fields of its row, the row's place, and its messages if it is no text."""

    ids: list[int]
    text: str
    fields: dict[str, Any]
    where: str
    messages: list[dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(RowsOption):
    """Prompts of a file. Those of batch n are a pure function of this option, of the file, and of n.

    Attributes:
      path: the file of rows, a folder of such files or a glob.
      tokenizer, template: None for those of the run that training starts from (training.init_from).
      group: the samples of one prompt; a batch has batch_size / group prompts.
      held_out: the share of prompts on which the loss of the right answers (the field "answer") is measured; one at
        least, and at least one is left to train on.
      batch_size: the rollouts of a batch.
      sequence_length: T, the most tokens of a prompt and its answer, without the last.
      seed: the seed of the order.
      prefetch: the number of batches made ahead.
    """

    token_settings = "tokenizer", "template", "held_out", "sequence_length"

    path: str = dataclasses.field(metadata=IS_PATH)
    tokenizer: SentencePieceFile | HuggingFace | Bytes | TokenizerOf | None = None
    template: PlainTemplate | TemplateFile | TemplateOf | None = None
    group: int = 8
    held_out: float = 0.05
    batch_size: int = 64
    sequence_length: int = 256
    seed: int = 0
    prefetch: int = dataclasses.field(default=4, metadata=EXECUTION_ONLY)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from problems_of_minima(self, group=2, batch_size=1, sequence_length=2, seed=0, prefetch=0)
        if self.group >= 1 and self.batch_size % self.group:
            yield "batch_size", f"{self.batch_size} rollouts are no whole groups of {self.group}"
        yield from problems_of_batches(self, "rows")
        if not 0 < self.held_out < 1:
            yield "held_out", f"expected a share between 0 and 1, got {self.held_out}"

    @property
    def cross_document_attention(self) -> bool:
        """Whether all tokens of a row see each other: they are one text."""
        return True

    @property
    def paths(self) -> dict[str, str]:
        """See `RowsOption`: prompts that are held out come from the same files."""
        return {"0": self.path}

    @property
    def no_text(self) -> str | None:
        """See `DataOption`."""
        return "prompts are no running text"

    def prepare(
        self,
        into: AnyPath | str,
        progress: Reporter | None = None,
        workers: int | None = None,
        check: CheckTokenizer | None = None,
        engine: Engine = "processes",
    ) -> AnyPath:
        """See `DataOption`. Raises UserError for a row that is no prompt, and for a folder made with other settings."""
        from train.data.conversations.prepare import prepare_rows

        folder, own = local_path(into, "a dataset that is made"), expand_paths(self, "data")
        return prepare_rows(own, folder, check, lambda tokenizer: _write(own, tokenizer, folder))

    def training_batches(self, dataset: Dataset, fields: Sequence[str]) -> PromptBatches:
        """See `DataOption`."""
        return PromptBatches(dataset, self, fields)

    def evaluation_batches(
        self, dataset: Dataset, split: str, limit: int | None, rows: Sequence[int]
    ) -> AnswerEvaluation:
        """See `DataOption`: the right answers to held-out prompts."""
        return AnswerEvaluation(dataset, self, limit, rows)

    def shown(self, dataset: Dataset, step: int, rows: Sequence[int] | None, characters: int) -> str:
        """See `DataOption`."""
        prompts = self.training_batches(dataset, ()).prompts(step - 1)
        return "\n".join(f"{prompt.where}: {prompt.text[:characters]!r}" for prompt in prompts)


def _write(data: Prompts, tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    prompts = list(_encoded(data, tokenizer, folder))
    bound = _bound(data, [_number(prompt) for prompt in prompts])
    lines: dict[Split, list[str]] = {"train": [], "validation": []}
    for prompt in prompts:
        split: Split = "validation" if _number(prompt) < bound else "train"
        lines[split].append(json.dumps(prompt._asdict()) + "\n")
    for split, written in lines.items():
        replace_file(folder / FILE.format(split=split), "".join(written).encode())
    empty = datasets.describe_split([]) | datasets.unrestored_entry([])
    splits = dict.fromkeys(lines, empty)
    datasets.write_dataset(folder, datasets.describe(tokenizer, folder) | {"splits": splits}, {})


def _encoded(data: Prompts, tokenizer: Tokenizer, folder: pathlib.Path) -> Iterator[Prompt]:
    """The prompts of the files; saves the template of those that are messages, for commands on the run.

    Raises UserError, with the row, for one without prompt or too long a prompt.
    """
    from train.data.conversations.encoding import encode, names_of_marks
    from train.data.conversations.found_template import save_template
    from train.data.conversations.prepare import template_of
    from train.data.conversations.rows import messages_of, read_rows
    from train.data.conversations.template import mapped, protected
    from train.data.preferences.preparing import stop_tokens_of

    template, marks = None, names_of_marks(tokenizer)
    for row in read_rows(data.path):
        fields = dict(row.fields)
        if "prompt" not in fields:
            raise UserError(f"{row.where}: has no field prompt; expected a text or a list of messages")
        given, messages = fields.pop("prompt"), None
        if isinstance(given, str):
            text, begin = given, tokenizer.begin_of_document
            ids = [*([] if begin is None else [begin]), *tokenizer.encode(given).tolist()]
        else:
            messages = messages_of(given, f"{row.where}: prompt")
            if template is None:
                template = template_of(data.starting_from(None), tokenizer)
                save_template(folder, template, stop_tokens_of(data))
            text = str(messages[-1]["content"])
            messages = mapped(messages, lambda one: protected(one, marks))
            ids = encode(tokenizer, template.render(messages))
        if not ids or len(ids) > data.sequence_length:
            raise UserError(
                f"{row.where}: the prompt has {len(ids)} tokens; expected 1 to data.sequence_length="
                f"{data.sequence_length}, which leave room for an answer"
            )
        yield Prompt(ids, text, fields, row.where, messages)


def _number(prompt: Prompt) -> int:
    """A hash of the prompt's ids, below 2^64."""
    return int.from_bytes(hashlib.blake2b(json.dumps(prompt.ids).encode(), digest_size=8).digest(), "big")


def _bound(data: Prompts, numbers: Sequence[int]) -> int:
    """The hash below which prompts are held out: one at least is, and one at least is not. Raises UserError for one."""
    different = sorted(set(numbers))
    if len(different) < 2:
        raise UserError(
            f"{data.path}: has {len(numbers)} rows with {len(different)} different prompts; expected at least 2, one "
            "to train on and one that is held out: give more rows"
        )
    return min(max(int(data.held_out * 2**64), different[1]), different[-1])


def read_prompts(dataset: Dataset, split: Split) -> list[Prompt]:
    """The prompts of a split. Raises UserError when their file is missing or damaged."""
    path = dataset.folder / FILE.format(split=split)
    try:
        return [Prompt(**json.loads(line)) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); delete the folder to prepare it again") from None


class PromptBatches(EndlessBatches[Prompts]):
    """See `train.data.interface.TrainingBatches`: each prompt `group` times, followed by padding."""

    def __init__(self, dataset: Dataset, data: Prompts, fields: Sequence[str]) -> None:
        """Args: the dataset, the option, the fields to make."""
        self.data, self.fields = data, fields
        self._prompts = read_prompts(dataset, "train")
        self._order = functools.lru_cache(maxsize=2)(self._order_of_epoch)

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.data.seed, epoch]).permutation(len(self._prompts))

    def prompts(self, n: int) -> list[Prompt]:
        """The prompts of batch n, each once: those of an epoch are a seeded permutation."""
        count, found = self.data.batch_size // self.data.group, []
        for k in range(n * count, (n + 1) * count):
            epoch, place = divmod(k, len(self._prompts))
            found.append(self._prompts[self._order(epoch)[place]])
        return found

    def rows(self, n: int, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """See `TrainingBatches`."""
        prompts = self.prompts(n)
        texts = [prompts[row // self.data.group].ids for row in (range(self.data.batch_size) if rows is None else rows)]
        return {name: x for name, x in padded(texts, self.data.sequence_length).items() if name in self.fields}

    def num_targets(self, n: int) -> int:
        """Zero: the answers are yet to be drawn."""
        return 0

    def documents(self, n: int, rows: Sequence[int] | None = None, characters: int = 60) -> list[DocumentSpan]:
        """The prompt of each row."""
        prompts, found = self.prompts(n), []
        for row in range(self.data.batch_size) if rows is None else rows:
            one = prompts[row // self.data.group]
            size = len(one.ids)
            found.append(DocumentSpan(row, 0, size, 0, 0, one.where, 0, size, size, one.text[:characters]))
        return found


class AnswerEvaluation:
    """The right answers to held-out prompts, once: the loss of their tokens, where rows have an answer."""

    def __init__(self, dataset: Dataset, data: Prompts, limit: int | None, rows: Sequence[int]) -> None:
        """Args: the dataset, the option, the most batches, the rows of this host. Raises UserError without answers."""
        self._data, self._rows, tokenizer = data, rows, dataset.tokenizer
        self._texts = []
        for prompt in read_prompts(dataset, "validation"):
            answer = [*tokenizer.encode(str(prompt.fields.get("answer", prompt.text))).tolist()]
            whole = [*prompt.ids, *answer][: data.sequence_length + 1]
            if len(whole) > len(prompt.ids):
                self._texts.append((whole, len(prompt.ids)))
        available = -(-len(self._texts) // data.batch_size)
        self.num_batches = available if limit is None else min(available, limit)

    @property
    def coverage(self) -> Coverage:
        """The tokens of the answers; they stand for no bytes."""
        some = self._texts[: self.num_batches * self._data.batch_size]
        return Coverage(tokens=sum(len(whole) - first for whole, first in some))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for n in range(self.num_batches):
            numbers = [n * self._data.batch_size + row for row in self._rows]
            some = [self._texts[number] if number < len(self._texts) else ([0], 1) for number in numbers]
            batch = padded([whole[:-1] or [0] for whole, _ in some], self._data.sequence_length)
            batch["targets"], batch["weights"] = (
                np.zeros_like(batch["tokens"]),
                np.zeros(batch["tokens"].shape, np.float32),
            )
            for i, (whole, first) in enumerate(some):
                batch["targets"][i, : len(whole) - 1] = whole[1:]
                batch["weights"][i, first - 1 : len(whole) - 1] = 1
            yield batch


def padded(texts: Sequence[Sequence[int]], length: int) -> dict[str, np.ndarray]:
    """Tokens, segments (0 for padding) and positions of texts, each text a row of `length`, int32."""
    tokens, segments = np.zeros((2, len(texts), length), np.int32)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = text
        segments[i, : len(text)] = 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    return {"tokens": tokens, "segment_ids": segments, "positions": positions}
