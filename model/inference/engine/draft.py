"""Guesses of a draft model: it reads every text in a cache of its own, and draws with the keys of the model."""

import dataclasses
from collections.abc import Callable, Sequence

from model.config import ModelConfig
from model.errors import UserError
from model.inference.engine.device_state import CachePlan, plan_cache
from model.inference.engine.options import EngineOptions
from model.inference.engine.programs import serving_config
from model.inference.engine.scheduler import Span
from model.inference.engine.sequence import Sequence as Text
from model.inference.engine.speculation import check_rolls_back
from model.inference.engine.tried_device import TriedDevice
from model.inference.generate import PreparedParams, prepare_params
from model.layout import Layout
from model.transformer import Params


@dataclasses.dataclass(frozen=True)
class DraftModel:
    """A model that guesses tokens: its options, and its parameters or the result of `prepare_params`."""

    config: ModelConfig
    params: Params | PreparedParams


class DraftProposer:
    """Guesses by a draft model.

    Each row has the pages of a whole text, so that no text gives way here. A row's cache holds the tokens that the
    draft has read of it; guesses that were wrong are overwritten.
    """

    def __init__(
        self, model: DraftModel, target: ModelConfig, options: EngineOptions, longest_text: int, layout: Layout
    ) -> None:
        """Makes the cache.

        Args:
          model: the draft model.
          target: the options of the engine's own model.
          options: the sizes of the engine.
          longest_text: the longest text of the engine.
          layout: the layout of activations over devices.

        Raises:
          UserError: for a draft of another vocabulary, or one that cannot give back tokens.
        """
        if model.config.vocab_size != target.vocab_size:
            raise UserError(
                f"the draft model knows {model.config.vocab_size} tokens and the model {target.vocab_size}; take a "
                "draft with the same tokenizer"
            )
        for config, what in ((target, "the model"), (model.config, "the draft model")):
            if config.encoder is not None:
                raise UserError(f"engine.speculation: {what} has an encoder, and a draft reads no source; take NGram()")
        assert options.speculation is not None
        check_rolls_back(model.config, "the draft model")
        if any(layer.position.reads_lengths for layer in model.config.layers):
            raise UserError("the draft model's positions depend on the length of a text; take a draft without such")
        self._plan = _plan(model.config, options, longest_text)
        self._budget = options.tokens_per_step
        self._device = TriedDevice(
            serving_config(model.config),
            layout,
            self._plan,
            prepare_params(model.config, model.params, layout).params,
            rows=options.rows,
            decoded=2 * options.rows,
            tokens_per_step=options.tokens_per_step,
            num_likeliest=1,
            most_steps=options.speculation.tokens,
        )
        self._texts: dict[int, Text] = {}  # by row: what the cache holds of its text

    @property
    def cache_bytes(self) -> int:
        """The bytes of its cache."""
        groups = range(len(self._plan.reaches))
        return sum(self._plan.bytes_of(group) * self._plan.num_pages[group] for group in groups)

    @property
    def num_programs(self) -> int:
        """See `Proposer`."""
        return self._device.num_programs

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """See `Proposer`."""
        self._device.compile(progress)

    def forget(self, text: Text) -> None:
        """See `Proposer`; the next text of the row overwrites its cache."""

    def propose(self, texts: Sequence[Text], counts: Sequence[int]) -> list[list[int]]:
        """See `Proposer`; a text that is yet to be read has no guesses."""
        own = [self._own(text) for text in texts]
        self._read(own)
        most = [
            min(count, self._plan.longest_text - len(text.tokens) + 1) if text.num_to_read <= 1 else 0
            for text, count in zip(own, counts, strict=True)
        ]
        ends = [len(text.tokens) + count for text, count in zip(own, most, strict=True)]
        while spans := [span for text, end in zip(own, ends, strict=True) for span in _spans(text, end)]:
            for span, chosen in zip(spans, self._device.decode(spans).chosen(), strict=True):
                span.sequence.num_read += span.count
                if span.sequence.num_to_read < 0:  # that was its last token
                    span.sequence.tokens += [each.token for each in chosen]
        return [mine.tokens[len(text.tokens) :] for mine, text in zip(own, texts, strict=True)]

    def _own(self, text: Text) -> Text:
        """Returns the text as the draft knows it, with the tokens of the engine's."""
        assert text.row is not None, "texts that decode have rows"
        known = self._texts.get(text.row)
        if known is None or known.request_id != text.request_id:
            first, request = (
                text.row * self._plan.pages_of_text,
                dataclasses.replace(text.request, num_logprobs=None, num_prompt_logprobs=None, constraint=None),
            )
            pages = list(range(first, first + self._plan.pages_of_text))
            known = Text(
                text.request_id, request, 0, "max_tokens", [], [pages for _ in self._plan.reaches], row=text.row
            )
            self._texts[text.row] = known
        equal = 0
        for mine, other in zip(known.tokens[: known.num_read], text.tokens, strict=False):
            if mine != other:
                break
            equal += 1
        known.tokens, known.num_read = list(text.tokens), equal
        return known

    def _read(self, texts: Sequence[Text]) -> None:
        """Reads what it has not read of texts, as much as in a step of the engine; the last tokens are left."""
        spans, left = [], self._budget
        for text in texts:
            count = 0 if len(text.tokens) > self._plan.longest_text else min(text.num_to_read, left)
            if text.num_to_read > 1 and count > 0:
                spans.append(Span(text, text.num_read, count))
                left -= count
        if spans:
            self._device.read(spans)
        for span in spans:
            span.sequence.num_read += span.count


def _spans(text: Text, end: int) -> list[Span]:
    """Returns what to read of a text to draw its tokens up to number `end`; the next alone where rules must know it."""
    last, count = len(text.tokens) - 1, end - len(text.tokens)
    if count < 1:
        return []
    # Where all guesses were right, the token before the last is not read yet.
    own = [Span(text, place, 1) for place in range(text.num_read, last)]
    return [*own, Span(text, last, 1 if text.needs_tokens else count)]


def _plan(config: ModelConfig, options: EngineOptions, longest_text: int) -> CachePlan:
    """Returns the arrays of rows that each hold a whole text."""
    longest = min(longest_text, config.context_length)
    plan = plan_cache(config, options, options.rows * -(-longest // options.page_size) * options.page_size)
    plan = dataclasses.replace(plan, longest_text=longest)
    return dataclasses.replace(plan, num_pages=(options.rows * plan.pages_of_text,) * len(plan.reaches))
