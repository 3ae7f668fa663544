"""The options of a model, and every check that crosses from one mechanism to another."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from model.attention import GroupedQuery
from model.dropout import Dropout
from model.embedding import Tied, Untied
from model.feedforward import MLP, Gated
from model.initialization import FanIn, Normal
from model.norms import LayerNorm, RMSNorm
from model.positions import Learned, NoPositions, Rotary, Sinusoidal
from model.precision import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only Transformer.

    Attributes:
      vocab_size: V, the number of tokens.
      context_length: the most tokens that the model takes in one sequence.
      num_layers: L.
      width: D, the width of the residual stream.
      position, attention, ffn, norm: the mechanisms, each chosen by class.
      norm_placement: "pre" normalises what a sublayer reads (GPT-2), with a last norm before the logits; "post"
        normalises the sum after each sublayer (Vaswani et al. 2017), which needs no last norm.
      unembedding: whether logits share the token table.
      final_logit_softcap: c of c * tanh(logit / c), or None.
      dropout: the rates, place by place.
      initialization: how parameters start.
      precision: the number formats.
      scan_layers: one traced layer run L times; False writes the layers out, for debugging, on the same parameters.
      remat: what the backward pass recomputes: "none", "dots" (all but matrix products of weights), "full" (all).
    """

    vocab_size: int
    context_length: int
    num_layers: int
    width: int
    attention: GroupedQuery
    ffn: MLP | Gated
    position: NoPositions | Learned | Sinusoidal | Rotary = Rotary()
    norm: LayerNorm | RMSNorm = RMSNorm()
    norm_placement: Literal["pre", "post"] = "pre"
    unembedding: Tied | Untied = Tied()
    final_logit_softcap: float | None = None
    dropout: Dropout = Dropout()
    initialization: Normal | FanIn = Normal()
    precision: Precision = Precision()
    scan_layers: bool = True
    remat: Literal["none", "dots", "full"] = "none"

    @property
    def head_dim(self) -> int:
        """H."""
        return self.attention.head_width(self.width)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense, alone or together."""
        for name in ("vocab_size", "context_length", "num_layers", "width"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        heads = self.attention.num_heads
        if self.attention.head_dim is None and heads >= 1 and self.width % heads:
            yield (
                "attention.num_heads",
                f"{heads} heads do not divide width={self.width}; change one of them, or set attention.head_dim",
            )
        elif isinstance(self.position, Rotary) and heads >= 1 and self.head_dim % 2:
            yield "position", f"Rotary turns pairs of dimensions, so the head width must be even, got {self.head_dim}"
        if isinstance(self.position, Sinusoidal) and self.width % 2:
            yield "position", f"Sinusoidal pairs a sine with a cosine, so width must be even, got {self.width}"
        if self.final_logit_softcap is not None and self.final_logit_softcap <= 0:
            yield "final_logit_softcap", f"must be above 0, or None for no cap, got {self.final_logit_softcap}"
