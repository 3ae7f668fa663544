"""The marks of a run's documents as the harness's Hugging Face backend would use them."""

from typing import Any, NamedTuple

from model.errors import UserError
from train.data.config import HuggingFace, SentencePieceFile
from train.data.tokenizers.huggingface import HuggingFaceTokenizer
from train.files.files import read_json
from train.files.paths import AnyPath
from train.run.folder import ORIGIN
from train.run.loading import LoadedRun


class Marks(NamedTuple):
    """Ids that begin and end texts.

    Attributes:
      prefix: comes before a text without context.
      adds_begin: whether `prefix` begins every other text too.
      prefix_text: the text that stands for `prefix` at the beginning of a text, or None.
      end: ends a document.
      stops: the ids that end a generated text.
    """

    prefix: int
    adds_begin: bool
    prefix_text: str | None
    end: int
    stops: frozenset[int]


def marks_of(run: LoadedRun) -> Marks:
    """The marks of a run: of a converted model those of its tokenizer, of a model trained here those of its documents.

    Raises UserError when the tokenizer has no mark that could come before a text.
    """
    tokenizer = run.tokenizer
    begin, end = tokenizer.begin_of_document, tokenizer.end_of_document
    if begin is None:
        raise UserError(
            f"{run.folder}: the harness scores texts after a mark that begins a document, and this run's tokenizer has "
            "none; train with one that has: SentencePiece(), Bytes() or Characters(end_of_document=True)"
        )
    origin = run.folder / ORIGIN
    stops = {begin if end is None else end}
    if not origin.is_dir() or run.experiment.training.init_from is not None:
        return Marks(begin, True, None, begin if end is None else end, frozenset(stops))
    option = tokenizer.option
    assert isinstance(option, HuggingFace | SentencePieceFile), option
    adds_begin, text = option.begin_of_document is not None, option.begin_of_document
    if text is None:
        text = _content(_optional_json(origin / "tokenizer_config.json").get("bos_token"))
        named = tokenizer.token_id(text) if isinstance(tokenizer, HuggingFaceTokenizer) and text is not None else None
        if named is None:
            text = getattr(option, "end_of_document", None)
        else:
            begin = named
    for name in ("config.json", "generation_config.json"):
        ids = _optional_json(origin / name).get("eos_token_id")
        stops |= {i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)}
    return Marks(begin, adds_begin, text, begin if end is None else end, frozenset(stops))


def _optional_json(path: AnyPath) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    """The text of a special token, which is given alone or in an object."""
    content: str | None = token.get("content") if isinstance(token, dict) else token
    return content
