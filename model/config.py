"""The options of a model, and every check that crosses from one mechanism to another."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from model.attention import GroupedQuery
from model.dropout import Dropout
from model.embedding import Tied, Untied
from model.experts import Experts
from model.feedforward import MLP, Gated
from model.initialization import FanIn, Normal
from model.layers import Except, Layer
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
      exceptions: layers that have another attention, ffn or position; of several that name a layer, the last counts.
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
    ffn: MLP | Gated | Experts
    position: NoPositions | Learned | Sinusoidal | Rotary = Rotary()
    exceptions: tuple[Except, ...] = ()
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
    def layers(self) -> tuple[Layer, ...]:
        """The mechanisms of every layer."""
        return tuple(Layer(**{name: option for name, (_, option) in layer.items()}) for layer in self._origins())

    def _origins(self) -> list[dict[str, tuple[str, Any]]]:
        """For every layer and kind of mechanism the path of the field that chose it, and the choice."""
        added = isinstance(self.position, Learned | Sinusoidal)  # to the embedding, so that layers have none
        position = NoPositions() if added else self.position
        base = {"attention": self.attention, "ffn": self.ffn, "position": position}
        layers = [{name: (name, option) for name, option in base.items()} for _ in range(self.num_layers)]
        for i, exception in enumerate(self.exceptions):
            for number in exception.chosen(self.num_layers):
                for name, option in exception.changes().items():
                    layers[number][name] = (f"exceptions.{i}.{name}", option)
        return layers

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense, alone or together."""
        for name in ("vocab_size", "context_length", "num_layers", "width"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        if isinstance(self.position, Sinusoidal) and self.width % 2:
            yield "position", f"Sinusoidal pairs a sine with a cosine, so width must be even, got {self.width}"
        if self.final_logit_softcap is not None and self.final_logit_softcap <= 0:
            yield "final_logit_softcap", f"must be above 0, or None for no cap, got {self.final_logit_softcap}"
        yield from self._problems_of_layers()

    def _problems_of_layers(self) -> Iterator[tuple[str, str]]:
        if self.num_layers < 1 or any(True for exception in self.exceptions for _ in exception.problems()):
            return
        layers = self._origins()
        used = {path for layer in layers for path, _ in layer.values()}
        for name in ("attention", "ffn", "position"):
            if name not in used:
                yield name, "no layer has it: the exceptions replace it in all of them; change it there"
        for i, exception in enumerate(self.exceptions):
            where = f"exceptions.{i}"
            if not exception.chosen(self.num_layers):
                yield f"{where}.layers", f"{exception.layers!r} is none of the {self.num_layers} layers"
            elif unused := [name for name in exception.changes() if f"{where}.{name}" not in used]:
                yield f"{where}.{unused[0]}", "no layer has it: later exceptions replace it in all of its layers"
            if exception.position is not None and isinstance(self.position, Learned | Sinusoidal):
                added = type(self.position).__name__
                yield f"{where}.position", f"{added} positions are added before the first layer, for all of them alike"
        clashes: dict[tuple[str, str], None] = {}
        for layer in layers:
            (where, attention), (position_path, position) = layer["attention"], layer["position"]
            clashes |= dict.fromkeys(attention.problems_with(self.width, position, where, position_path))
        yield from clashes
