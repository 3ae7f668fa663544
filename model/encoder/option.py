"""The encoder of an encoder-decoder model as a part of its config.

Vaswani et al. 2017, "Attention Is All You Need", section 3.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from model.encoder.additive import AdditiveAttention
from model.encoder.both_ways import BothWays
from model.encoder.cross import CrossAttention
from model.encoder.source import Source
from model.errors import UserError
from model.feedforward.mlp import MLP, Gated
from model.interfaces import AttentionOption
from model.mixers import Mixer
from model.parameters.parametrization import Standard
from model.positions.absolute import Position
from model.positions.rotary import Rotary
from model.vocabulary.embedding import Tied

if TYPE_CHECKING:
    from model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """Layers that read a source, whose every token sees all others; each decoder layer then attends to their stream.

    The encoder has the decoder's token table, width, kind of norm, residual scheme, multipliers, dropout and formats.

    Attributes:
      num_layers: the number of its layers.
      context_length: the largest number of tokens in one source.
      mixer, ffn, position: the mechanisms of its layers; ffn=None for layers without a feed-forward. A recurrence reads
        a source from its first token to its last, and `BothWays` also from its last to its first.
      start_token: the id of the token before the first of every target, in training and in generation.
      cross: the attention of every decoder layer to the source, between its mixer and its feed-forward.
    """

    num_layers: int
    context_length: int
    mixer: Mixer | BothWays
    ffn: MLP | Gated | None
    cross: CrossAttention | AdditiveAttention
    position: Position = Rotary()
    start_token: int = 0

    def as_model(self, config: ModelConfig) -> ModelConfig:
        """Returns the config of a model that has the encoder's layers and nothing else that is not the decoder's."""
        return dataclasses.replace(
            config,
            encoder=None,
            num_layers=self.num_layers,
            context_length=self.context_length,
            mixer=cast("Mixer", self.mixer),
            ffn=self.ffn,
            position=self.position,
            exceptions=(),
            per_layer_embedding=None,
            unembedding=Tied(),
            final_logit_softcap=None,
            multi_token=None,
            score_head=None,
        )

    def problems_with(self, config: ModelConfig) -> Iterator[tuple[str, str]]:
        """Yields the fields of the decoder's config that clash with the encoder, by their path, with the problem."""
        for name in ("num_layers", "context_length"):
            if getattr(self, name) < 1:
                yield f"encoder.{name}", f"must be at least 1, got {getattr(self, name)}"
                return
        if not 0 <= self.start_token < config.vocab_size:
            known = f"0 to {config.vocab_size - 1}"
            yield "encoder.start_token", f"{self.start_token} is no token of the vocabulary, which is {known}"
        if config.multi_token is not None:
            yield "multi_token", "its modules read no source; set it None, or encoder=None"
        if not self.position.of_later_keys:
            yield (
                "encoder.position",
                f"{type(self.position).__name__} has no numbers for keys after their query, which an encoder sees; use "
                "RelativeBias(bidirectional=True), Rotary, Learned, Sinusoidal or NoPositions",
            )
        yield from self.cross.problems_with(config.width, "encoder.cross")
        plain = dataclasses.replace(config, parametrization=Standard())
        for path, message in self.as_model(plain).problems():
            if path.split(".")[0] in ("mixer", "ffn", "position", "num_layers"):
                yield f"encoder.{path}", message

    def cost(self, config: ModelConfig, targets: int, sources: int) -> int:
        """Returns the operations of a forward pass over a source, and of cross-attention in all decoder layers."""
        mixer = self.mixer.cost(config.width, sources)
        if isinstance(self.mixer, AttentionOption):
            mixer += self.mixer.cost_of_later_keys(config.width, sources)
        ffn = 0 if self.ffn is None else self.ffn.cost(config.width, sources)
        stream = config.residual.cost(config.width, sources, 1 if self.ffn is None else 2)
        cross = config.num_layers * self.cross.cost(config.width, targets, sources)
        return self.num_layers * (mixer + ffn + stream) + cross


def refuse_source(encoder: Encoder | None, source: Source | None, cached: bool) -> None:
    """Raises UserError for a source that a model cannot read, or that it lacks and no cache can have (`cached`)."""
    if encoder is None:
        if source is not None:
            raise UserError("a source was given, and the model has no encoder; leave it out, or set model.encoder")
    elif source is not None:
        if (length := source.tokens_BS.shape[1]) > encoder.context_length:
            raise UserError(
                f"a source of {length} tokens is longer than encoder.context_length={encoder.context_length}"
            )
    elif not cached:
        raise UserError("the model has an encoder and was given no source; give source=Source(tokens_BS=...)")
