"""The settings that a dataset folder is made with; refuses to continue a folder that was made with other settings."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from model.errors import UserError
from model.options.difference import differences
from model.options.json import to_json
from train.data.config import Data, SeparateText, Source, Tail, TokenizerOf
from train.data.shards import dataset
from train.data.text import sources
from train.earlier import current_class
from train.files.files import read_json, write_json
from train.files.paths import AnyPath, literal_path

FILE = "settings.json"
SCHEMA = {"sources?": [{"path": str}], "texts?": {...: object}}
Units = list[sources.Unit]
HOLD_OUT = (
    "prepare the text with data.validation=HeldOutDocuments(), Tail(fraction=0.1) where it is one file, or "
    "SeparateText(path=...)"
)


def require_validation_text(data: Data) -> None:
    """Raises UserError when raw text has no part that is held out, or cannot be read."""
    if data.validation is None and not any(dataset.is_dataset(source.path) for source in data.sources()):
        list_source_units(data, finished=False)  # report a missing text first
        raise UserError(f"data.validation: the validation loss needs text that is held out, got None; {HOLD_OUT}")


def list_source_units(data: Data, finished: bool, say: sources.Say | None = None) -> list[Units | None]:
    """The units of every source; None for a source that is already a dataset.

    `say` is called with a line about files that were left out. Raises UserError for text that cannot be read; but a
    finished dataset no longer needs its text, so None stands for it then.
    """
    listed: list[Units | None] = []
    for source in data.sources():
        units = None
        if not dataset.is_dataset(source.path):
            try:
                whole = isinstance(data.validation, Tail)  # whose fraction is of each file
                size = None if whole else sources.BYTES_PER_DOCUMENT
                units = sources.list_units(source, bytes_per_document=size, say=say)
            except UserError:
                if not finished:
                    raise
        table = next((unit.path for unit in units or () if unit.format != "text"), None)
        if isinstance(data.validation, Tail) and table is not None:
            raise UserError(
                f"Tail() cuts text files, but {sources.printable(table)} is a table of documents;"
                " use HeldOutDocuments()"
            )
        listed.append(units)
    return listed


def validation_units(option: SeparateText, say: sources.Say | None = None) -> Units:
    """The units of a validation text that has its own path."""
    return sources.list_units(Source(path=option.path, field=option.field), say=say)


def settings_of(
    data: Data, listed: list[Units | None], finished: bool, say: sources.Say | None = None
) -> dict[str, Any]:
    """The settings that decide the bytes of the dataset: options, and a fingerprint of every text that is available."""
    texts = {str(k): sources.fingerprint(units) for k, units in enumerate(listed) if units is not None}
    if isinstance(data.validation, SeparateText):
        try:
            texts["validation"] = sources.fingerprint(validation_units(data.validation, say))
        except UserError:
            if not finished:
                raise
    return {
        "format": dataset.FORMAT,
        "tokenizer": to_json(data.tokenizer),
        "validation": to_json(data.validation),
        "sources": [{"path": source.path, "field": source.field} for source in data.sources()],
        "texts": texts,
    }


def write_or_check(folder: pathlib.Path, settings: dict[str, Any], finished: bool, *, reusable: bool = True) -> None:
    """Writes the settings into a new folder. Raises UserError when it was begun with others, or holds other files.

    Text counts as the same under another path: a folder may move. A folder without a finished shard, as a mistake in
    the options leaves it, is begun again with the new settings. `reusable` says that data.path may name the folder.
    """
    if not (folder / FILE).is_file():
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise UserError(f"{folder} holds other files ({', '.join(others[:3])}); expected a new or an empty folder")
        write_json(folder / FILE, settings)
        return
    before = read_settings(folder)
    changes = [
        change
        for name in (name for name in settings if name not in ("sources", "texts"))
        for change in differences(before.get(name), settings[name], name)
    ]
    paths, old_paths = ([s["path"] for s in value.get("sources", [])] for value in (settings, before))
    old, new = before.get("texts", {}), settings["texts"]
    same_texts = [old.get(str(k)) is not None and old.get(str(k)) == new.get(str(k)) for k in range(len(paths))]
    if len(paths) != len(old_paths):
        changes.append(f"sources: {old_paths} -> {paths}")
    else:
        for k, (path, old_path, same) in enumerate(zip(paths, old_paths, same_texts, strict=True)):
            if str(k) in new and not same:
                changes.append(
                    f"the text: {old_path} -> {path}" if path != old_path else f"the text of {path} has changed"
                )
            elif str(k) not in new and path != old_path:
                changes.append(f"the source: {old_path} -> {path}")
    if "validation" in new and new["validation"] != old.get("validation"):
        changes.append("the validation text has changed")
    if changes and not finished and not any(folder.rglob("part-*.json")):
        _clear(folder)
        write_json(folder / FILE, settings)
    elif changes:
        fix = "delete it to prepare it again, or name another folder"
        fix += f", or give data.path={folder} to use it as it is" if reusable else ""
        raise UserError("\n  ".join([f"{folder} was made with other settings, or from other text:", *changes, fix]))


def read_settings(folder: AnyPath) -> dict[str, Any]:
    """The settings of a folder, with today's names of options."""
    settings = read_json(folder / FILE, schema=SCHEMA)
    return settings | {"validation": current_class(settings.get("validation"))}


def _clear(folder: pathlib.Path) -> None:
    """Removes the files that a failed preparation left in its folder."""
    for path in folder.iterdir():
        if path.is_dir() and path.name.startswith("source-"):
            shutil.rmtree(path)
        elif path.is_file() and (path.name == FILE or path.suffix == ".array_record" or "tokenizer" in path.name):
            path.unlink()


def refuse_other_settings(data: Data, folder: AnyPath) -> None:
    """Refuses options that a finished dataset cannot follow, so that no option is silently ignored."""
    settings = read_settings(folder) if (folder / FILE).is_file() else {}
    description = read_json(folder / dataset.DATASET_FILE)
    recorded = {
        "tokenizer": [settings.get("tokenizer"), description.get("tokenizer")],
        "validation": [settings.get("validation")],
    }
    if isinstance(data.tokenizer, TokenizerOf) and _resolved(literal_path(data.tokenizer.path)) == _resolved(folder):
        recorded["tokenizer"].append(to_json(data.tokenizer))
    for name, values in recorded.items():
        asked = to_json(getattr(data, name))
        if asked is not None and asked not in values:
            head = f"{folder} is already prepared, with another {name} than requested:"
            fix = f"set data.{name}=None to use the folder as it is"
            raise UserError("\n  ".join([head, *differences(values[0], asked, f"data.{name}"), fix]))


def _resolved(folder: AnyPath) -> AnyPath:
    return folder.resolve() if isinstance(folder, pathlib.Path) else folder
