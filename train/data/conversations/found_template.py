"""The chat template of a run: the one that it was trained with, or that of the published files that it came from."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from model.errors import UserError
from train.data.conversations.template import PLAIN, ChatTemplate
from train.data.shards.dataset import dataset_of_run
from train.data.tokenizers.interface import Tokenizer
from train.files.files import read_json, write_json
from train.files.paths import AnyPath, user_path
from train.files.remote import convert_read_errors
from train.run.folder import ORIGIN

FILE = "chat_template.json"  # in a dataset folder
SCHEMA = {"source": str, "names": {...: object}, "where": str, "stop_tokens": [int]}


class FoundTemplate(NamedTuple):
    """A template, and the tokens that end an answer under it, beside the end of a document."""

    template: ChatTemplate
    stop_tokens: tuple[int, ...] = ()


def save_template(folder: pathlib.Path, template: ChatTemplate, stop_tokens: Sequence[int]) -> None:
    """Writes the template of a dataset's conversations into its folder, where commands on the run find it."""
    entry = {"source": template.source, "names": template.names, "where": template.where}
    write_json(folder / FILE, entry | {"stop_tokens": [int(token) for token in stop_tokens]})


def template_of_dataset(folder: AnyPath) -> FoundTemplate | None:
    """The template that `save_template` wrote; None if there is none."""
    path = folder / FILE
    if not path.is_file():
        return None
    stored = read_json(path, remedy="prepare the data again", schema=SCHEMA)
    template = ChatTemplate(stored["source"], stored["names"], stored["where"])
    return FoundTemplate(template, tuple(stored["stop_tokens"]))


def trained_template(run: AnyPath) -> FoundTemplate | None:
    """The template of the conversations that a run was trained on; None for a run on other data."""
    try:
        folder = dataset_of_run(run).folder
    except UserError:  # a run that only serves need not have its data
        return None
    return template_of_dataset(folder)


def find_chat_template(run: AnyPath, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of a run: of its conversations, else of its published files in RUN/origin; None if there is none.

    Raises UserError for a damaged file.
    """
    if (trained := trained_template(run)) is not None:
        return trained.template
    origin = run / ORIGIN
    config = optional_json(origin / "tokenizer_config.json")
    source, where = config.get("chat_template"), origin / "tokenizer_config.json"
    if (origin / "chat_template.json").is_file():
        where = origin / "chat_template.json"
        source = optional_json(where).get("chat_template")
    if (origin / "chat_template.jinja").is_file():
        where = origin / "chat_template.jinja"
        source = _text_of(where)
    if isinstance(source, list):  # several by name, one of them for ordinary chats
        by_name = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = by_name.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise UserError(f"{where}: chat_template: expected a text, got {type(source).__name__}; get the file again")
    return ChatTemplate(source, mark_names(run, tokenizer), f"the chat template of {where}")


def template_in_file(file: str, run: AnyPath | None, tokenizer: Tokenizer) -> ChatTemplate:
    """A template in a file, with the names of marks of a run. Raises UserError for a file that is none."""
    path = user_path(file)
    if not path.is_file():
        raise UserError(f"no chat template at {file}; expected a file with a Jinja template")
    return ChatTemplate(_text_of(path), mark_names(run, tokenizer), f"the chat template {file}")


def plain_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Cairn's own template. Raises UserError for a tokenizer without a token that ends documents, and so answers."""
    if tokenizer.end_of_document is None:
        raise UserError(
            "Cairn's plain template ends an answer with the token that ends documents, and this tokenizer has none; "
            "take one that has it, such as Characters(end_of_document=True), or give a template (data.template=FILE)"
        )
    return ChatTemplate(PLAIN, where="Cairn's plain chat template")


def mark_names(run: AnyPath | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The marks by their names in templates: `bos_token` and others, from the option and the files in RUN/origin."""
    found: dict[str, Any] = {}
    option: Any = tokenizer.option
    for name, field in (("bos_token", "begin_of_document"), ("eos_token", "end_of_document")):
        if isinstance(mark := getattr(option, field, None), str):
            found[name] = mark
    if run is None:
        return found
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for name, value in optional_json(run / ORIGIN / file).items():
            value = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(value, str):
                found[name] = value
    return found


def optional_json(path: AnyPath) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no file."""
    return read_json(path, remedy="get it again") if path.is_file() else {}


def _text_of(path: AnyPath) -> str:
    """The text of a file with a template. Raises UserError for a file that cannot be read."""
    with convert_read_errors(path):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text; expected a file with a Jinja template") from None
