"""The tokenizer of a Hugging Face folder as an option: its file, and the ids that begin and end a document."""

from typing import Any

from model.errors import UserError
from train.data.config import HuggingFace, SentencePieceFile
from train.data.tokenizers.huggingface import read_tokenizer
from train.data.tokenizers.interface import make_tokenizer
from train.files.files import cannot_read, read_json
from train.files.paths import AnyPath


def tokenizer_option(folder: AnyPath, vocab_size: int) -> HuggingFace | SentencePieceFile | None:
    """The tokenizer in a folder, with as many ids as the model has; None if the folder has no tokenizer file."""
    config = _optional_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        return _of_tokenizer_json(folder, config, vocab_size)
    if (folder / "tokenizer.model").is_file():
        begin = (_content(config.get("bos_token")) or "<s>") if config.get("add_bos_token", True) else None
        return SentencePieceFile(path=str(folder / "tokenizer.model"), begin_of_document=begin, vocab_size=vocab_size)
    return None


def mask_id(folder: AnyPath, option: HuggingFace | SentencePieceFile | None) -> int | None:
    """The id of the mask in the tokenizer of a folder; None for a folder without a tokenizer.

    Raises UserError for a tokenizer that names no mask, or none of its tokens.
    """
    if option is None:
        return None
    token = _content(_optional_json(folder / "tokenizer_config.json").get("mask_token"))
    found = None if token is None else make_tokenizer(option, ()).marks().get(token)
    if found is None:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: mask_token={token!r} is no special token of the tokenizer, and this "
            "model fills in masks; correct it or download the file again"
        )
    return found


def _of_tokenizer_json(folder: AnyPath, config: dict[str, Any], vocab_size: int) -> HuggingFace:
    path = folder / "tokenizer.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error
    tokenizer, _ = read_tokenizer(content, str(path))
    values = read_json(folder / "config.json")
    inner = values.get("text_config")
    end = values.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, dict) else None)
    end = end[0] if isinstance(end, list) and end else end
    plain, marked = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    begin = marked[0] if marked[:1] != plain[:1] else None
    if end is None and config.get("mask_token") and not config.get("eos_token") and marked[-1:] != plain[-1:]:
        end = marked[-1]  # BERT's [SEP]
    return HuggingFace(
        path=str(path),
        begin_of_document=None if begin is None else tokenizer.id_to_token(begin),
        end_of_document=tokenizer.id_to_token(end) if isinstance(end, int) else _content(config.get("eos_token")),
        vocab_size=vocab_size,
    )


def _optional_json(path: AnyPath) -> dict[str, Any]:
    return read_json(path, remedy="get it again") if path.is_file() else {}


def _content(token: Any) -> str | None:
    """The text of a special token, which is given alone or in an object."""
    content: str | None = token.get("content") if isinstance(token, dict) else token
    return content
