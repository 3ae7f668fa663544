"""From files of preferences to the arrays of a dataset folder, once; a folder that is there is checked and reused."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from model.errors import UserError
from train.data.batches.order import stable_hash
from train.data.conversations.found_template import save_template, trained_template
from train.data.conversations.option import RowsOption, TemplateOf
from train.data.conversations.prepare import prepare_rows, template_of
from train.data.interface import CheckTokenizer
from train.data.preferences.option import HeldOutPrompts, NoTemplate, Preferences, SeparatePreferences
from train.data.preferences.reading import Preference, read_preferences
from train.data.preferences.rendering import Rendered, Renderer
from train.data.preferences.stored import FILE, Writer
from train.data.prepare.progress import Reporter
from train.data.shards import dataset
from train.data.tokenizers.interface import Tokenizer
from train.files.files import write_json
from train.files.paths import expand_paths, literal_path

TRAIN, VALIDATION = "train", "validation"


def prepare_preferences(
    data: Preferences, folder: pathlib.Path, progress: Reporter | None, check: CheckTokenizer | None
) -> pathlib.Path:
    """Fills a folder with the tokens of preferences; see train/data/conversations/prepare.py.

    Raises UserError for bad rows too, with file and line.
    """
    data, progress = expand_paths(data, "data"), progress or Reporter()
    return prepare_rows(data, folder, check, lambda tokenizer: _prepare(data, tokenizer, folder, progress))


def _prepare(data: Preferences, tokenizer: Tokenizer, folder: pathlib.Path, progress: Reporter) -> None:
    template = None if isinstance(data.template, NoTemplate) else template_of(data, tokenizer)
    writers = {TRAIN: Writer(), VALIDATION: Writer()}
    with progress.stage("rendering preferences", 0) as stage:
        left_out = _fill(data, Renderer(tokenizer, template), writers, stage)
    for split, dropped in left_out.items():
        told = f"{len(dropped):,} rows of the {split} split have more than {data.sequence_length} tokens"
        progress.message(f"WARNING: {told} and were left out (data.too_long), the first {dropped[0]}")
    if template is not None:
        save_template(folder, template, stop_tokens_of(data))
    _write(folder, tokenizer, writers)


def _rows(data: Preferences) -> Iterator[tuple[str, Preference]]:
    """The rows with the names of their splits. Raises UserError where a split would be empty."""
    held_out, counts = data.validation, dict.fromkeys((TRAIN, VALIDATION), 0)
    sources = [(data.path, TRAIN)]
    if isinstance(held_out, SeparatePreferences):
        sources.append((held_out.path, VALIDATION))
    for path, split in sources:
        for row in read_preferences(path):
            if data.form == "pairs" and row.label is not None:
                raise UserError(f"{row.where}: is one answer with a label; data.form='labels' takes these, for KTO")
            name = VALIDATION if isinstance(held_out, HeldOutPrompts) and _is_held_out(held_out, row) else split
            counts[name] += 1
            yield from ((name, one) for one in ((row,) if data.form == "pairs" else row.unpaired()))
    for name, count in counts.items():
        if not count:
            why = f"{sum(counts.values()):,} rows and data.validation={held_out}"
            mend = "give more rows, or hold out another share of them"
            raise UserError(f"{data.path}: no row is left for the {name} split, of {why}; {mend}")


def _is_held_out(option: HeldOutPrompts, row: Preference) -> bool:
    prompt = row.prompt if isinstance(row.prompt, str) else json.dumps(row.prompt, sort_keys=True)
    return stable_hash(option.seed, prompt) < option.fraction * 2**32


def _fill(data: Preferences, renderer: Renderer, writers: dict[str, Writer], stage: Any) -> dict[str, list[str]]:
    """Adds all rows to the writers; returns for each split the places of the rows that were left out.

    Raises UserError for a row that is too long, if none is to be left out, and where nothing is left of a split.
    """
    left_out = collections.defaultdict[str, list[str]](list)
    for split, row in _rows(data):
        answers = renderer.answers(row)
        if data.too_long == "refuse":
            for one in answers:
                _refuse_long(data, row, one)
        if len(answers) == 2 and answers[0].ids.tolist() == answers[1].ids.tolist():
            raise UserError(
                f"{row.where}: both answers have the same tokens, so that no answer is better; leave it out"
            )
        if any(len(one.ids) > data.sequence_length for one in answers):
            left_out[split].append(row.where)
        else:
            writers[split].add(row, answers)
            stage.advance(documents=1, tokens=sum(len(one.ids) for one in answers))
    for split, dropped in left_out.items():
        if not writers[split].size:
            raise UserError(
                f"{data.path}: all {len(dropped):,} rows of the {split} split have more than data.sequence_length="
                f"{data.sequence_length} tokens; set it higher"
            )
    return dict(left_out)


def _refuse_long(data: Preferences, row: Preference, answer: Rendered) -> None:
    if len(answer.ids) <= data.sequence_length:
        return
    if answer.prompt >= data.sequence_length:
        long = f"its prompt has {answer.prompt:,} tokens, which leaves no room for an answer"
    else:
        long = f"prompt and answer have {answer.prompt:,} + {len(answer.ids) - answer.prompt:,} tokens"
    raise UserError(
        f"{row.where}: {long} in data.sequence_length={data.sequence_length}; set it higher (model.context_length is "
        "its limit), or leave such rows out with data.too_long='drop'. No answer is cut"
    )


def stop_tokens_of(data: RowsOption) -> tuple[int, ...]:
    """The tokens that end answers in the run whose template this is."""
    if not isinstance(data.template, TemplateOf):
        return ()
    found = trained_template(literal_path(data.template.run))
    return () if found is None else found.stop_tokens


def _write(folder: pathlib.Path, tokenizer: Tokenizer, writers: dict[str, Writer]) -> None:
    """Writes the arrays, and last the description, which marks the folder as finished."""
    for split, writer in writers.items():
        writer.write(folder, split)
    write_json(folder / FILE, {name: writer.files for name, writer in writers.items()})
    empty = dataset.describe_split([]) | dataset.unrestored_entry([])
    description = dataset.describe(tokenizer, folder) | {"splits": dict.fromkeys(writers, empty)}
    dataset.write_dataset(folder, description, {})
