"""The options of an engine, and the numbers that follow from them."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from model.inference.engine.speculation import Modules, Speculation


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The sizes of an engine.

    Attributes:
      rows: the most requests that decode at once.
      tokens_per_step: the most tokens that a step reads: one for each decoding request, the rest for prompts.
      steps_per_call: the most tokens that a text decodes in one call of a program, while no prompt is read. Tokens are
        then known together. A request that comes meanwhile waits for the call, and so does one that is cancelled.
      page_size: the tokens of a page of the cache.
      cache_tokens: the tokens that the cache holds, of all texts together; None for `rows` texts of the context length,
        or as many as half of the device's memory holds.
      source_tokens: for a model with an encoder, the most tokens of a source: every row has room for so many. None for
        as many as the encoder reads.
      cache_dtype: a smaller format of keys and values in pages, with a scale for each token and head; None for that of
        the model's products. Recurrent states keep theirs.
      prefix_cache: whether texts that begin alike share pages, also those of texts that ended.
      max_logprobs: the most likeliest tokens that a request may ask for with each token.
      speculation: how the next tokens are guessed, to read several of a text in one step; None for no guesses.
      only_scores: whether all requests ask for scores of their prompts alone; then no program that decodes is compiled.
      invariant: whether one program of one shape reads all tokens, so that results are the same bits beside any
        neighbours on accelerators too (programs.py). Slower: prompts are read one token a row, and each step pays for
        all rows.
    """

    rows: int = 16
    tokens_per_step: int = 128
    steps_per_call: int = 4
    page_size: int = 16
    cache_tokens: int | None = None
    source_tokens: int | None = None
    cache_dtype: Literal["int8", "float8_e4m3fn"] | None = None
    prefix_cache: bool = True
    max_logprobs: int = 20
    speculation: Speculation | None = None
    only_scores: bool = False
    invariant: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("rows", "tokens_per_step", "steps_per_call", "page_size"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        if self.tokens_per_step <= self.rows:
            yield (
                "tokens_per_step",
                f"must be more than rows={self.rows}, or prompts would wait while all rows decode; "
                f"got {self.tokens_per_step}",
            )
        if self.cache_tokens is not None and self.cache_tokens < self.page_size:
            yield (
                "cache_tokens",
                f"must be at least the {self.page_size} tokens of a page, or None; got {self.cache_tokens}",
            )
        if self.source_tokens is not None and self.source_tokens < 1:
            yield "source_tokens", f"must be at least 1, or None for the encoder's length, got {self.source_tokens}"
        if self.only_scores and self.speculation is not None:
            yield "speculation", "guesses new tokens, and with only_scores there are none; set one of them"
        if self.invariant and isinstance(self.speculation, Modules):
            yield (
                "speculation",
                "Modules() fills the caches of its modules in programs that read several tokens a row, and invariant "
                "has one program; take NGram() or Draft(), or set invariant=False",
            )
        if self.max_logprobs < 0:
            yield "max_logprobs", f"must be 0 or more, got {self.max_logprobs}"


@dataclasses.dataclass(frozen=True)
class Capacity:
    """The size of an engine's cache, known before any array is made.

    Attributes:
      tokens: the tokens that the cache holds, of all texts together.
      longest_text: the most tokens of one text: its prompt and new tokens, without the last, which needs no place.
      cache_bytes: the bytes of all arrays.
      bytes_per_token: the bytes that one more token of every text needs; windows and recurrent states need none.
      bytes_per_row: the bytes of the states of recurrent layers, of the windows, and of the source, of one decoding
        request.
      longest_source, source_bytes: the most tokens of a source, and the bytes of one; 0 for a model without an encoder.
    """

    tokens: int
    longest_text: int
    cache_bytes: int
    bytes_per_token: int
    bytes_per_row: int
    longest_source: int = 0
    source_bytes: int = 0

    def describe_sources(self) -> str:
        """Returns what a source may have and costs, after a semicolon; nothing for a model without an encoder."""
        if not self.longest_source:
            return ""
        return f"; a source may have {self.longest_source:,}, and has room of {self.source_bytes / 1e6:,.1f} MB"


@dataclasses.dataclass
class EngineStatistics:
    """Counts since the engine was made, and the state after the last step.

    Attributes:
      steps: the steps that read tokens.
      prompt_tokens, new_tokens: the tokens read for prompts (those read again too), and generated.
      source_tokens: the tokens of sources that the encoder read.
      prefix_tokens: the tokens of prompts that were found in the cache in place of being read.
      text_steps: the steps of all texts that brought a new token, or several.
      proposed_tokens, accepted_tokens: the guesses of speculation, and those that were right.
      preemptions: how often a request lost its pages and was read again.
      evictions: the pages of ended texts that made room.
      pages, pages_in_use: of all pools.
      waiting, running: the requests.
    """

    steps: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    source_tokens: int = 0
    prefix_tokens: int = 0
    text_steps: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    evictions: int = 0
    pages: int = 0
    pages_in_use: int = 0
    waiting: int = 0
    running: int = 0

    @property
    def acceptance_rate(self) -> float:
        """The share of guesses that were right; 0 without guesses."""
        return self.accepted_tokens / max(self.proposed_tokens, 1)

    @property
    def tokens_per_text_step(self) -> float:
        """The new tokens of a text in one step; 1 without speculation."""
        return self.new_tokens / max(self.text_steps, 1)
