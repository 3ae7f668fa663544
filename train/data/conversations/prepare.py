"""From files of conversations to a dataset folder: tokens as of any other text, and a byte of notes for each.

DATASET/
  train.documents.npy, train.array_record ...   the tokens, as of other datasets; a document is a conversation
  train.tokens.npy     a byte for each token: the number of its role (template.ROLES), and COUNTS if it counts
  chat_template.json   the template, for commands on the run
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from model.errors import UserError
from model.options.json import to_json
from train.data.conversations.batches import NOTES
from train.data.conversations.encoding import names_of_marks
from train.data.conversations.found_template import (
    find_chat_template,
    plain_template,
    save_template,
    template_in_file,
)
from train.data.conversations.option import (
    Conversations,
    HeldOutConversations,
    PlainTemplate,
    RowsOption,
    SeparateConversations,
    TemplateFile,
)
from train.data.conversations.rows import Conversation, conversation_of, fingerprint, read_rows
from train.data.conversations.template import ChatTemplate
from train.data.conversations.tokens import COUNTS, Tokenized, tokenize
from train.data.interface import CheckTokenizer
from train.data.prepare import settings
from train.data.prepare.prepare import folder_lock
from train.data.prepare.progress import Reporter
from train.data.shards import dataset
from train.data.shards.shards import ShardWriter
from train.data.tokenizers.interface import Tokenizer, make_tokenizer, save_tokenizer
from train.files.files import write_array
from train.files.paths import expand_paths, literal_path

SPLITS = ("train", "validation")
COMMON_END = 0.1  # a token that ends this share of all answers ends answers


@dataclasses.dataclass
class _Left:
    """Conversations that were too long: their number, and the first of them in words."""

    count: int = 0
    first: str = ""

    def add(self, where: str, tokens: int) -> None:
        """Counts one more."""
        self.count += 1
        self.first = self.first or f"{where} ({tokens:,} tokens)"


def template_of(data: RowsOption, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of an option that says which. Raises UserError where there is none."""
    option = data.template
    if isinstance(option, PlainTemplate):
        return plain_template(tokenizer)
    if isinstance(option, TemplateFile):
        run = None if option.run is None else literal_path(option.run)
        return template_in_file(option.path, run, tokenizer)
    assert option is not None
    found = find_chat_template(literal_path(option.run), tokenizer)
    if found is None:
        raise UserError(f"data.template: {option.run} has no chat template; give TemplateFile or PlainTemplate()")
    return found


def prepare_conversations(
    data: Conversations, folder: pathlib.Path, progress: Reporter | None, check: CheckTokenizer | None
) -> pathlib.Path:
    """Fills a folder with the tokens of conversations; see `prepare_rows`.

    Raises UserError for a row that cannot be learned from too.
    """
    data, progress = expand_paths(data, "data"), progress or Reporter()

    def fill(tokenizer: Tokenizer) -> None:
        _Preparation(data, tokenizer, folder, progress).run()

    return prepare_rows(data, folder, check, fill)


def prepare_rows(
    data: RowsOption, folder: pathlib.Path, check: CheckTokenizer | None, fill: Callable[[Tokenizer], None]
) -> pathlib.Path:
    """Fills a folder with the tokens of rows, or checks that it holds those of this option; returns it.

    Args:
      data: the option, with its paths written out.
      folder: the folder.
      check: called with the tokenizer and the folder before the rows are read.
      fill: reads the rows and writes all files but the settings and the tokenizer; the description of the dataset last.

    Raises:
      UserError: where there is no tokenizer, and for a folder that was made with other settings.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; name another one") from None
    with folder_lock(folder):
        finished = dataset.is_dataset(folder)
        if finished and (data.tokenizer is None or data.template is None):
            return folder  # the run that had them is gone, and they are here
        if data.tokenizer is None:
            raise UserError(
                "data.tokenizer: expected one, because the run starts from no other (training.init_from); such as "
                "HuggingFace(path='tokenizer.json', end_of_document='</s>'), TokenizerOf(path='runs/base/data') or "
                "Bytes()"
            )
        settings.write_or_check(folder, _settings(data, finished), finished, reusable=False)
        if not finished:
            tokenizer = make_tokenizer(data.tokenizer, ())
            save_tokenizer(tokenizer, folder)
            if check is not None:
                check(tokenizer, folder)
            fill(tokenizer)
    return folder


def _settings(data: RowsOption, finished: bool) -> dict[str, Any]:
    """The settings that decide the folder; the files may be gone once it is finished."""
    texts = {}
    for name, path in data.paths.items():
        try:
            texts[name] = fingerprint(path)
        except UserError:
            if not finished:
                raise
    own = {name: to_json(getattr(data, name)) for name in data.token_settings}
    return {"format": dataset.FORMAT, "sources": [{"path": data.path}], "texts": texts, **own}


class _Preparation:
    """Writes one folder."""

    def __init__(self, data: Conversations, tokenizer: Tokenizer, folder: pathlib.Path, progress: Reporter) -> None:
        self.data, self.tokenizer, self.folder, self.progress = data, tokenizer, folder, progress
        self.template = template_of(data, tokenizer)
        self.marks = names_of_marks(tokenizer)
        self.longest = data.sequence_length + 1
        self.left: dict[str, _Left] = collections.defaultdict(_Left)
        self.ends: collections.Counter[int | None] = collections.Counter()
        self.marking = {*tokenizer.marks().values(), tokenizer.end_of_document}

    def run(self) -> None:
        """Reads, renders, encodes and writes; the description comes last, and marks the folder as finished."""
        writers = {
            name: ShardWriter(self.folder / f"{name}.array_record", self.tokenizer.vocab_size) for name in SPLITS
        }
        notes: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
        try:
            with self.progress.stage("rendering conversations", 0) as stage:
                for split, conversation in self._rows():
                    found = self._fitting(conversation)
                    if found is not None:
                        ids, of_tokens, text = found
                        writers[split].write(conversation.name, ids, len(text.encode()), len(text.split()))
                        notes[split].append(of_tokens)
                        stage.advance(documents=1, tokens=len(ids))
            finished = {name: writer.finish() for name, writer in writers.items()}
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
        self._finish(finished, {name: np.concatenate(parts) for name, parts in notes.items() if parts})

    def _rows(self) -> Iterator[tuple[str, Conversation]]:
        option = self.data.validation
        held_out: Callable[[Conversation], bool] = lambda _: False  # noqa: E731
        if isinstance(option, HeldOutConversations):
            held_out = lambda one: _is_held_out(one, option)  # noqa: E731
        for row in read_rows(self.data.path):
            conversation = conversation_of(row)
            yield "validation" if held_out(conversation) else "train", conversation
        if isinstance(option, SeparateConversations):
            for row in read_rows(option.path):
                yield "validation", conversation_of(row)

    def _fitting(self, conversation: Conversation) -> Tokenized | None:
        """The tokens of a conversation; None if it is left out.

        Raises UserError for one that is too long where that is refused.
        """
        found = self._tokenized(conversation)
        whole = len(found.ids)
        if whole <= self.longest:
            self._note_ends(found.ids, found.notes)
            return found
        if self.data.too_long == "refuse":
            raise UserError(
                f"{conversation.where}: {whole:,} tokens, more than the {self.longest:,} of a row with "
                f"data.sequence_length={self.data.sequence_length}; make it longer, or set data.too_long to 'drop' "
                "(leaves such conversations out) or 'shorten' (leaves their last turns out)"
            )
        messages = conversation.messages
        while self.data.too_long == "shorten" and (messages := _without_last_turn(messages)):
            shorter = self._tokenized(conversation._replace(messages=messages))
            if len(shorter.ids) <= self.longest:
                self.left["shortened"].add(conversation.where, whole)
                self._note_ends(shorter.ids, shorter.notes)
                return shorter
        self.left["left out"].add(conversation.where, whole)
        return None

    def _tokenized(self, conversation: Conversation) -> Tokenized:
        return tokenize(conversation, self.template, self.tokenizer, self.marks, self.data.mask)

    def _note_ends(self, tokens: np.ndarray, notes: np.ndarray) -> None:
        """Counts the last mark of each run of counted tokens: what ends an answer."""
        if self.data.mask == "all":
            return
        counts = np.append(notes >= COUNTS, False)
        begins, stops = (np.flatnonzero(np.diff(counts.astype(np.int8), prepend=0) == step) for step in (1, -1))
        for begin, stop in zip(begins, stops, strict=True):
            marks = [token for token in tokens[begin:stop].tolist() if token in self.marking]
            self.ends[marks[-1] if marks else None] += 1

    def _stop_tokens(self) -> list[int]:
        total = sum(self.ends.values())
        common = [token for token, count in self.ends.items() if count >= COMMON_END * total]
        if None in common:
            self.progress.message(
                "WARNING: no mark of the tokenizer ends the answers, so that a chat does not know where one ends; "
                "write one inside the generation block of the template, such as {{ eos_token }}"
            )
        return sorted(token for token in common if token is not None and token != self.tokenizer.end_of_document)

    def _finish(self, finished: dict[str, Any], notes: dict[str, np.ndarray]) -> None:
        description = dataset.describe(self.tokenizer, self.folder) | {"splits": {}}
        tables = {}
        for name, found in finished.items():
            if found is None:
                use = "learn from" if name == "train" else "validate on"
                why = self._told() or "give more rows, or hold out another share of them (data.validation)"
                raise UserError(f"{self.data.path}: no conversation is left to {use}; {why}")
            shard, tables[name] = found
            description["splits"][name] = dataset.describe_split([shard]) | dataset.unrestored_entry([])
            write_array(self.folder / NOTES.format(split=name), notes[name])
        save_template(self.folder, self.template, self._stop_tokens())
        told = self._told()
        if told:
            self.progress.message(f"WARNING: {told}")
        counted, total = (sum(int(count(one)) for one in notes.values()) for count in (_counted, len))
        count = sum(description["splits"][name]["documents"] for name in SPLITS)
        self.progress.message(
            f"{count:,} conversations of {total:,} tokens by {self.template.where}; {counted / total:.1%} of the "
            f"tokens count (data.mask={self.data.mask!r})"
        )
        dataset.write_dataset(self.folder, description, tables)

    def _told(self) -> str:
        """The conversations that were too long, in words; empty if there were none."""
        lines = [f"{left.count:,} were {how}, the first {left.first}" for how, left in sorted(self.left.items())]
        if not lines:
            return ""
        return f"conversations longer than {self.longest:,} tokens: {'; '.join(lines)} (data.too_long)"


def _counted(notes: np.ndarray) -> int:
    return int((notes >= COUNTS).sum())


def _without_last_turn(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages up to the answer before the last one; empty if there is none."""
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        return []
    if answers[-1] < len(messages) - 1:
        return messages[: answers[-1] + 1]
    return messages[: answers[-2] + 1] if len(answers) > 1 else []


def _is_held_out(conversation: Conversation, option: HeldOutConversations) -> bool:
    content = json.dumps([option.seed, conversation.messages], sort_keys=True, ensure_ascii=False)
    number = int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big")
    return number < option.fraction * 2**64
