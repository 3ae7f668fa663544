"""Generation from text to text: encodes prompts, decodes new tokens as they come, and ends texts at stop strings."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from model.config import ModelConfig
from model.errors import UserError
from model.inference.generate import Edits, cache_bytes, cache_slots, generate, prepare_params
from model.inference.prompts import occurrence_indices
from model.inference.sampling import Sampling
from model.layout import ONE_DEVICE, Layout
from model.transformer import Params
from train.data.tokenizers.interface import StreamDecoder, Tokenizer, ids_with_end
from train.generation.prompts import check_text

T = TypeVar("T")

# Called with a prompt's number and the text that new tokens completed (often empty), and at the end of the text.
OnText = Callable[[int, str], None]

EndedBy = Literal[
    "end_of_document", "stop_string", "constraint", "dead_end", "max_tokens", "context", "interruption"
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class GeneratedText:
    """The text that a model generated after a prompt.

    Attributes:
      text: the new text, up to the first stop string if there is one.
      tokens: the number of new tokens, including those of the stop string and the end of the document.
      ended_by: the reason for the end; "context" means that the model's context is full, "interruption" a signal,
        "constraint" and "dead_end" those of `model.inference.request.Request.constraint`.
      ends_mid_character: whether the text ends inside the bytes of a character; these bytes are U+FFFD in the text.
    """

    text: str
    tokens: int
    ended_by: EndedBy
    ends_mid_character: bool = False


def generate_texts(
    model: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    stop_strings: Sequence[str] = (),
    batch_size: int = 16,
    layout: Layout = ONE_DEVICE,
    on_text: OnText | None = None,
    results: list[GeneratedText] | None = None,
    edits: Edits = (),
) -> list[GeneratedText]:
    """Generates a text after every prompt; equal prompts get different texts, unless sampling is greedy.

    Args:
      model: the model's options.
      params: its parameters.
      tokenizer: its tokenizer.
      prompts: texts; after an empty prompt the model starts a new document.
      sampling: how tokens are chosen, and how many.
      stop_strings: strings that end a text; the result holds the text before the first of them.
      batch_size: prompts at a time.
      layout: the sharding of activations, as for `model.inference.generate.generate`.
      on_text: see `OnText`.
      results: the list to fill and return; after a KeyboardInterrupt it has the texts that were drawn until then.
      edits: edits of taps, as for `model.inference.generate.generate`.

    Raises:
      UserError: for an empty stop string, for a prompt longer than the context, and for the errors of `prompt_ids`.
    """
    if "" in stop_strings:
        raise UserError("a stop string is empty; expected at least one character")
    rows = check_prompts(model, tokenizer, prompts)
    sample_indices = occurrence_indices(prompts)
    padded = _padded_batch_size(len(rows), batch_size, layout)
    results = [] if results is None else results
    prepared_params = prepare_params(model, params, layout) if rows else params  # once, not for every batch
    for first in range(0, len(rows), padded):
        chosen = slice(first, first + padded)
        before = before_texts(model, rows[chosen], [])
        batch = _Batch([TextStream(tokenizer, row, stop_strings) for row in before], first, on_text)
        try:
            generated_ids = generate(
                model,
                prepared_params,
                rows[chosen],
                sampling,
                begin=tokenizer.begin_of_document,
                end=tokenizer.end_of_document,
                on_token=batch.push,
                sample_indices=sample_indices[chosen],
                layout=layout,
                row_multiple=padded,
                edits=edits,
            )
        except KeyboardInterrupt:
            results += batch.interrupted()
            raise
        results += batch.finish(generated_ids, tokenizer.end_of_document, sampling.max_tokens)
    return results


def before_texts(model: ModelConfig, prompts: Sequence[T], nothing: T) -> Sequence[T]:
    """What stands before each new text: its prompt, except that a source is another text."""
    return prompts if model.encoder is None else [nothing] * len(prompts)


def largest_cache_bytes(
    model: ModelConfig, rows: Sequence[Sequence[int]], max_tokens: int, batch_size: int, layout: Layout = ONE_DEVICE
) -> int:
    """The bytes of the largest cache that `generate_texts` allocates for prompts of these ids."""
    size = _padded_batch_size(len(rows), batch_size, layout)
    slots = [cache_slots(model, rows[first : first + size], max_tokens) for first in range(0, len(rows), size)]
    return cache_bytes(model, size, max(slots))


def _padded_batch_size(count: int, batch_size: int, layout: Layout) -> int:
    """The number of rows of every batch: the last batch is padded, so that one compiled program serves all."""
    ways = layout.ways("batch")
    return -(-min(batch_size, count) // ways) * ways if count else 1


class _Batch:
    """The texts of prompts that are generated together; the first prompt has the number `first`."""

    def __init__(self, streams: Sequence["TextStream"], first: int, on_text: OnText | None) -> None:
        self._streams, self._first, self._on_text = streams, first, on_text
        self._texts, self._tokens = [""] * len(streams), [0] * len(streams)

    def push(self, row: int, token: int) -> bool:
        """Takes the next id of a row; returns whether a stop string ended the row."""
        self._tokens[row] += 1
        self._emit(row, self._streams[row].push(token))
        return self._streams[row].stopped

    def finish(self, generated_ids: Sequence[Sequence[int]], end: int | None, max_tokens: int) -> list[GeneratedText]:
        """Shows the text that was held back, and returns the text of each row with the reason for its end."""
        results = []
        for row, (stream, ids) in enumerate(zip(self._streams, generated_ids, strict=True)):
            self._emit(row, stream.finish(truncated=ids[-1] != end))
            ended_by: EndedBy = "max_tokens" if len(ids) == max_tokens else "context"
            if stream.stopped:
                ended_by = "stop_string"
            elif ids[-1] == end:
                ended_by = "end_of_document"
            results.append(GeneratedText(self._texts[row], len(ids), ended_by, stream.ends_mid_character))
        return results

    def interrupted(self) -> list[GeneratedText]:
        """Shows the text that was held back, and returns the unfinished text of each row."""
        results = []
        for row, stream in enumerate(self._streams):
            self._emit(row, stream.finish(truncated=True))
            text, tokens = self._texts[row], self._tokens[row]
            results.append(GeneratedText(text, tokens, "interruption", stream.ends_mid_character))
        return results

    def _emit(self, row: int, text: str) -> None:
        self._texts[row] += text
        if self._on_text is not None:
            self._on_text(self._first + row, text)


def prompt_ids(tokenizer: Tokenizer, text: str, *, is_source: bool = False) -> list[int]:
    """The ids of a prompt as the beginning of a document, or as the source of an encoder, as the model saw in training.

    If the tokenizer has an id that begins documents, or else an id that ends them, this id comes first; a source has
    its end instead. After an empty text the model starts a new document. Raises UserError for an empty text if the
    tokenizer has no such id.
    """
    begin = [] if tokenizer.begin_of_document is None else [tokenizer.begin_of_document]
    ids = ids_with_end(tokenizer, text) if is_source else begin + tokenizer.encode(text).tolist()
    if not ids:
        raise UserError(
            "the prompt is empty, and this run's tokenizer has no mark that begins a document; give at least one"
        )
    return ids


def check_prompts(
    model: ModelConfig, tokenizer: Tokenizer, prompts: Sequence[str], names: Sequence[str] | None = None
) -> list[list[int]]:
    """The ids of every prompt.

    Raises UserError for the errors of `prompt_ids` and of the tokenizer, and for a prompt longer than the model's
    context; the error gives the prompt's name or number.
    """
    rows = []
    for number, prompt in enumerate(prompts, start=1):
        where = f"prompt {number}" if names is None else names[number - 1]
        check_text(prompt, where)
        try:
            row = prompt_ids(tokenizer, prompt, is_source=model.encoder is not None)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        context = (model if model.encoder is None else model.encoder).context_length
        over = len(row) - context
        if over > 0:
            raise UserError(
                f"{where} has {len(row)} tokens (with the mark that begins a document, if any), more than the "
                f"model's context of {context}; shorten it by {over} tokens, or take a model with a "
                "longer context"
            )
        rows.append(row)
    return rows


class TextStream:
    """Decodes one generated text while its ids come.

    The joined results of `push` and `finish` equal the text that the tokenizer decodes from all ids at once: no
    character is split. The text ends before the first stop string that is completed, wherever tokens begin and end;
    `stopped` tells whether there was one. `decoded` counts the characters of all ids so far, those held back included.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop_strings: Sequence[str] = ()) -> None:
        """Args: the tokenizer, the ids of the prompt, the stop strings."""
        self.stopped = self.ends_mid_character = False
        self.decoded = 0
        self._stop_strings = tuple(stop_strings)
        self._pending = ""
        self._tokenizer, self._last = tokenizer, list(prompt[-1:])
        self._decoder = _decoder_after(tokenizer, prompt)

    def push(self, token: int) -> str:
        """Takes the next id and returns the text that can be shown now; a sentinel of the model alone is its <ID>."""
        if token < self._tokenizer.vocab_size:
            self._last = [token]
            return self._release(self._decoder.push([token]))
        rest = self._decoder.flush()  # a character does not go on after a sentinel
        self._decoder = _decoder_after(self._tokenizer, [] if rest.endswith("\ufffd") else self._last)
        return self._release(f"{rest}<{token}>")

    def finish(self, *, truncated: bool) -> str:
        """Returns the rest of the text, with the bytes of an unfinished character as U+FFFD.

        `truncated` tells that a limit ended the text: then `ends_mid_character` tells whether it ended inside the bytes
        of a character.
        """
        rest = self._decoder.flush()
        self.ends_mid_character = truncated and not self.stopped and rest.endswith("\ufffd")
        text = self._release(rest)
        pending, self._pending = self._pending, ""
        return text + pending

    def _release(self, new: str) -> str:
        self.decoded += len(new)
        if self.stopped:
            return ""
        text = self._pending + new
        found = [(at + len(stop), at) for stop in self._stop_strings if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)[1]]
        # The longest end of the text that may begin a stop string is held back until the next ids.
        num_pending = max(
            (n for stop in self._stop_strings for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
        )
        self._pending = text[len(text) - num_pending :]
        return text[: len(text) - num_pending]


def _decoder_after(tokenizer: Tokenizer, ids: Sequence[int]) -> StreamDecoder:
    """A decoder of what follows some ids: the first ids of a text may be decoded differently, without a space."""
    decoder = StreamDecoder(tokenizer)
    decoder.push(ids)
    decoder.end_known_text()
    return decoder
