"""The options of a model, and every check that crosses from one mechanism to another."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from model.attention.grouped_query import GroupedQuery
from model.dropout import Dropout
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.layers import Except, Layer
from model.mixers import Mixer
from model.norms import LayerNorm, RMSNorm
from model.options import differences, to_json
from model.parameters import FanIn, Normal
from model.positions.absolute import Learned, NoPositions, Position, Sinusoidal
from model.positions.rotary import Rotary
from model.precision import Precision
from model.recurrent.memory import Recurrent
from model.residual import Multipliers, Parallel, PostNorm, PreNorm, Reordered, Sandwich
from model.vocabulary.embedding import Tied, Untied
from model.vocabulary.multi_token import MultiToken

# Fields that say how a model is trained and run: one may take the parameters of another that differs in these.
OF_TRAINING = ("dropout", "initialization", "precision", "scan_layers", "remat")
# More than any model has; what is checked layer by layer would fill the memory for a number typed wrong.
MOST_LAYERS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only Transformer.

    Mechanisms that clash, or of which one would do nothing beside another, are refused. What begins to act in longer
    texts only, such as a window or the scaling of positions, may be chosen for a context of any length.

    Attributes:
      vocab_size: V, the number of tokens.
      context_length: the most tokens that the model takes in one sequence.
      num_layers: L.
      width: D, the width of the residual stream.
      position, attention, ffn, norm: the mechanisms, each chosen by class.
      embedding_norm: a norm on token embeddings, before positions are added to them, or None (BLOOM; Dettmers et al.
        2022, "8-bit Optimizers via Block-wise Quantization", section 2.3).
      exceptions: layers that have another attention, ffn or position; of several that name a layer, the last counts.
      residual: where norms sit and how sublayers are added; see model/residual.py.
      multipliers: constant factors on embeddings, sublayers and logits.
      layer_scale: where a trained factor for each channel of what a sublayer adds starts (Touvron et al. 2021,
        "CaiT", equation 4), or None for no such factors.
      unembedding: whether logits share the token table.
      final_logit_softcap: c of c * tanh(logit / c), or None.
      multi_token: modules that predict tokens further on while training, or None.
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
    attention: Mixer
    ffn: MLP | Gated | Experts
    position: Position = Rotary()
    exceptions: tuple[Except, ...] = ()
    norm: LayerNorm | RMSNorm = RMSNorm()
    embedding_norm: LayerNorm | RMSNorm | None = None
    residual: PreNorm | PostNorm | Sandwich | Reordered | Parallel = PreNorm()
    multipliers: Multipliers = Multipliers()
    layer_scale: float | None = None
    unembedding: Tied | Untied = Tied()
    final_logit_softcap: float | None = None
    multi_token: MultiToken | None = None
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
        if self.num_layers > MOST_LAYERS:
            yield "num_layers", f"must be at most {MOST_LAYERS:,}, got {self.num_layers:,}"
        if isinstance(self.position, Sinusoidal) and self.width % 2:
            yield "position", f"Sinusoidal pairs a sine with a cosine, so width must be even, got {self.width}"
        if self.final_logit_softcap is not None and self.final_logit_softcap <= 0:
            yield "final_logit_softcap", f"must be above 0, or None for no cap, got {self.final_logit_softcap}"
        if self.layer_scale is not None and self.layer_scale <= 0:
            yield "layer_scale", f"must be above 0, or None for no such factors, got {self.layer_scale}"
        if self.multi_token is not None:
            yield from self.multi_token.problems_with(self.context_length, "multi_token")
        yield from self._problems_of_layers()

    def _problems_of_layers(self) -> Iterator[tuple[str, str]]:
        if not 1 <= self.num_layers <= MOST_LAYERS or any(
            True for exception in self.exceptions for _ in exception.problems()
        ):
            return
        layers = self._origins()
        used = {path for layer in layers for path, _ in layer.values()}
        yield from self._problems_without_attention(layers)
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
        for where in dict.fromkeys(layer["attention"][0] for layer in layers):
            of_these = [layer for layer in layers if layer["attention"][0] == where]
            outside = isinstance(self.position, Learned | Sinusoidal)
            positions = [self.position if outside else layer["position"][1] for layer in of_these]
            yield from self._without_effect(of_these[0]["attention"][1], positions, where)

    def _without_effect(self, attention: Any, positions: list[Position], path: str) -> Iterator[tuple[str, str]]:
        """Fields of an attention that do nothing in any of its layers, which have these positions."""
        norm = attention.qk_norm if isinstance(attention, GroupedQuery) else None
        if norm is not None and norm.after_positions and not any(isinstance(p, Rotary) for p in positions):
            names = " and ".join(sorted({type(p).__name__ for p in positions}))
            yield (
                f"{path}.qk_norm.after_positions",
                f"needs rotary positions, and its layers have {names}; set it False",
            )

    def _problems_without_attention(self, layers: list[dict[str, tuple[str, Any]]]) -> Iterator[tuple[str, str]]:
        """Yields what acts inside attention and is chosen for recurrent layers alone."""
        recurrent = [layer for layer in layers if isinstance(layer["attention"][1], Recurrent)]
        attending = {layer["position"][0] for layer in layers if layer not in recurrent}
        for path, option in dict(layer["position"] for layer in recurrent).items():
            if path in attending or (path == "position" and isinstance(option, NoPositions)):
                continue
            mixers = dict.fromkeys(type(x["attention"][1]).__name__ for x in recurrent if x["position"][0] == path)
            mend = "take NoPositions, Learned or Sinusoidal" if path == "position" else "leave it out"
            yield (
                path,
                f"{type(option).__name__} is a choice for attention, and layers with {', '.join(mixers)} have none, "
                f"which are all the layers that it is for; {mend}",
            )
        if self.dropout.attention and len(recurrent) == len(layers):
            mixers = dict.fromkeys(type(layer["attention"][1]).__name__ for layer in recurrent)
            yield (
                "dropout.attention",
                f"drops weights of attention, and {', '.join(mixers)} has none; set it to 0, or dropout.residual",
            )


def differences_of_models(one: ModelConfig, other: ModelConfig, *but: str) -> list[str]:
    """The fields in which two models are not the same one, `path: one -> other`; fields named may differ besides.

    How they are trained and run is no matter, nor what keeps experts busy, nor whether a number is given or follows.
    """
    same = {name: getattr(one, name) for name in (*OF_TRAINING, *but)}
    width = one.width if one.width == other.width else None  # heads may follow from it
    same |= _alike(one, other, width)
    if len(one.exceptions) == len(other.exceptions):
        pairs = zip(one.exceptions, other.exceptions, strict=True)
        same["exceptions"] = tuple(dataclasses.replace(b, **_alike(a, b, width)) for a, b in pairs)
    return differences(to_json(one), to_json(dataclasses.replace(other, **same)), "model")


def _alike(one: ModelConfig | Except, other: ModelConfig | Except, width: int | None) -> dict[str, Any]:
    """The attention and the feed-forward layer of the other, with the words of the one for what is the same."""
    attention, ffn = other.attention, other.ffn
    if isinstance(one.attention, GroupedQuery) and isinstance(attention, GroupedQuery):
        if one.attention.kv_heads == attention.kv_heads:
            attention = dataclasses.replace(attention, num_kv_heads=one.attention.num_kv_heads)
        if width is not None and one.attention.head_width(width) == attention.head_width(width):
            attention = dataclasses.replace(attention, head_dim=one.attention.head_dim)
    if isinstance(one.ffn, Experts) and isinstance(ffn, Experts):
        ffn = dataclasses.replace(ffn, balance_loss=one.ffn.balance_loss, router_z_loss=one.ffn.router_z_loss)
        if one.ffn.load_bias is not None and ffn.load_bias is not None:
            ffn = dataclasses.replace(ffn, load_bias=one.ffn.load_bias)
    return {"attention": attention, "ffn": ffn}
