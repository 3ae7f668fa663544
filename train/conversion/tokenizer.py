"""The tokenizer of a Hugging Face folder as an option: its file, and the ids that begin and end a document."""

from typing import Any

from train.data.config import HuggingFace, SentencePieceFile
from train.data.tokenizers.huggingface import read_tokenizer
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
