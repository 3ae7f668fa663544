"""The options of a model, and every check that concerns more than one mechanism."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from model.attention.directions import Causal, Direction, problems_of_direction
from model.dropout import Dropout
from model.encoder.option import Encoder
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.interfaces import AttentionOption, FeedForwardOption, MixerOption
from model.kernels.selection import Kernels
from model.layers import Except, Layer
from model.mixers import Mixer
from model.norms import LayerNorm, RMSNorm
from model.options.difference import differences
from model.options.field_marks import ADDED_PART, EXECUTION_ONLY, TRAINING_ONLY, WIDTH, marked_fields
from model.options.json import to_json
from model.parameters.adapters import DoRA, LoRA
from model.parameters.maker import FanIn, Normal
from model.parameters.parametrization import NO_GROWTH, CompleteP, ModelGrowth, MuP, Standard
from model.parameters.precision import Precision
from model.positions.absolute import NoPositions, Position
from model.positions.rotary import Rotary
from model.positions.shared import problems_of_sharing
from model.recompute import Remat
from model.residual import Multipliers, PreNorm, Residual
from model.vocabulary.embedding import Tied, Untied
from model.vocabulary.multi_token import MultiToken
from model.vocabulary.per_layer import PerLayerEmbedding
from model.vocabulary.pooling import Pooler
from model.vocabulary.prediction_head import PredictionHead
from model.vocabulary.score_head import ScoreHead

# More than any model has. Checks run layer by layer, so that a mistyped number would fill the memory.
MAX_LAYERS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Transformer: a decoder, an encoder (`visibility`), or a decoder that attends to an `encoder`.

    A config is refused if two of its mechanisms clash, or if one would have no effect beside another. A mechanism that
    acts only in longer texts, such as a window or the scaling of positions, may be chosen for any context length.

    Attributes:
      vocab_size: V, the number of tokens.
      context_length: the largest number of tokens in one sequence.
      num_layers: L.
      width: D, the width of the residual stream.
      visibility: which way tokens see each other: Causal (a decoder), Bidirectional (an encoder) or PrefixLM.
      position, mixer, ffn, norm: the mechanisms, each chosen by class; mixer=None for layers without a mixer, ffn=None
        for layers without a feed-forward.
      encoder: the encoder of a source and the attention to it (model/encoder/), or None.
      embedding_norm: a norm on token embeddings, before positions are added to them, or None (BLOOM; Dettmers et al.
        2022, "8-bit Optimizers via Block-wise Quantization", section 2.3).
      token_types: the number of types of tokens, of which each has a vector that is added to the embedding (BERT: 2 for
        first and second sentences); or None.
      input_norm: a norm on the sum of token embeddings, types and positions (BERT, BART), or None.
      embedding_width: the width E of the token table, from and to which matrices project (OPT-350M; Lan et al. 2020,
        "ALBERT", section 3.1); None for D and no such matrices.
      per_layer_embedding: vectors of tokens that each layer reads from a table of its own; or None.
      exceptions: layers that have another mixer, ffn or position; if several name a layer, the last counts.
      residual: where norms sit and how sublayers are added; see model/residual/.
      multipliers: constant factors on embeddings, sublayers and logits.
      layer_scale: the initial value of a trained factor on each channel of a sublayer's output (Touvron et al. 2021,
        "CaiT", equation 4), or None for no factors.
      stream_scale: the initial value of a trained factor on the residual stream after every layer, one number for all
        channels (Gemma 4), or None for no such factors.
      prediction_head: a dense layer, an activation and a norm before the unembedding (BERT); or None.
      unembedding: whether logits share the token table.
      final_logit_softcap: c of c * tanh(logit / c), or None.
      multi_token: modules that predict tokens further ahead in training, or None.
      score_head: numbers for each token beside its logits, for rewards and values, or None.
      pooler: a dense layer and tanh on the first token of a text, for one vector a text (BERT); or None.
      adapters: trained changes of low rank to matrices; all else is then frozen. None for no adapters.
      dropout: the dropout rates.
      initialization: the distribution of initial parameters.
      parametrization: how initial values, rates and constant factors change with width and depth.
      precision: the number formats.
      scan_layers: traces one layer and runs it L times; False unrolls the layers, on the same parameters: a longer
        compilation, less memory, and a faster step, 5% for 1.1B on a GPU (tests/benchmarks/README.md).
      remat: the intermediates that the backward pass recomputes: "none", "dots" (all but matrix products of weights),
        "full" (all of a layer but its inputs), or all but the inputs and the taps that `SaveOnly` names.
      kernels: the kernels to choose from, by name.
    """

    vocab_size: int
    context_length: int
    num_layers: int
    width: int = dataclasses.field(metadata=WIDTH)
    mixer: Mixer | None
    ffn: MLP | Gated | Experts | None
    visibility: Direction = Causal()
    position: Position = Rotary()
    exceptions: tuple[Except, ...] = ()
    norm: LayerNorm | RMSNorm = RMSNorm()
    encoder: Encoder | None = None
    embedding_norm: LayerNorm | RMSNorm | None = None
    token_types: int | None = None
    input_norm: LayerNorm | RMSNorm | None = None
    embedding_width: int | None = dataclasses.field(default=None, metadata=WIDTH)
    per_layer_embedding: PerLayerEmbedding | None = None
    residual: Residual = PreNorm()
    multipliers: Multipliers = Multipliers()
    layer_scale: float | None = None
    stream_scale: float | None = None
    prediction_head: PredictionHead | None = None
    unembedding: Tied | Untied = Tied()
    final_logit_softcap: float | None = None
    multi_token: MultiToken | None = None
    score_head: ScoreHead | None = dataclasses.field(default=None, metadata=ADDED_PART)
    pooler: Pooler | None = dataclasses.field(default=None, metadata=ADDED_PART)
    adapters: LoRA | DoRA | None = dataclasses.field(default=None, metadata=ADDED_PART)
    dropout: Dropout = dataclasses.field(default=Dropout(), metadata=TRAINING_ONLY)
    initialization: Normal | FanIn = dataclasses.field(default=Normal(), metadata=TRAINING_ONLY)
    parametrization: Standard | MuP | CompleteP = Standard()
    precision: Precision = dataclasses.field(default=Precision(), metadata=TRAINING_ONLY)
    scan_layers: bool = dataclasses.field(default=True, metadata=EXECUTION_ONLY)
    remat: Remat = dataclasses.field(default="none", metadata=EXECUTION_ONLY)
    kernels: Kernels = dataclasses.field(default=Kernels(), metadata=EXECUTION_ONLY)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the fields alone, without cached values, for pickles and copies."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The mechanisms of every layer, with the scales of attention that follow from the parametrisation."""
        layers = [{name: option for name, (_, option) in layer.items()} for layer in self._layer_choices()]
        cross = None if self.encoder is None else self.encoder.cross
        return tuple(
            Layer(
                **layer | {"mixer": _with_scale(self, layer["mixer"])},
                cross=cross,
                unnormed=number == 0 and not self.residual.first_norm,
            )
            for number, layer in enumerate(layers)
        )

    @functools.cached_property
    def growth(self) -> ModelGrowth:
        """How much larger the model is than the base model of its parametrisation."""
        invalid = self.width < 1 or self.num_layers < 1 or any(self.parametrization.problems())
        return NO_GROWTH if invalid else self.parametrization.growth(self)

    @property
    def factors(self) -> Multipliers:
        """The constant factors: those of the config times those of the parametrisation."""
        given, growth = self.multipliers, self.growth
        return dataclasses.replace(given, residual=given.residual * growth.residual, logits=given.logits / growth.width)

    def written_out(self) -> "ModelConfig":
        """Returns the same function of the same parameters with the factors of the parametrisation as numbers."""
        scaled = functools.partial(_with_scale, self)
        return dataclasses.replace(
            self,
            multipliers=self.factors,
            parametrization=Standard(),
            mixer=scaled(self.mixer),
            exceptions=tuple(dataclasses.replace(one, mixer=scaled(one.mixer)) for one in self.exceptions),
        )

    def unquantized(self) -> "ModelConfig":
        """Returns the model before its matrices were quantised."""
        if self.precision.weights is None:
            return self
        return dataclasses.replace(self, precision=dataclasses.replace(self.precision, weights=None))

    def warnings(self) -> Iterator[tuple[str, str]]:
        """Yields fields with which training is not what it may seem to be."""
        if self.adapters is not None and any(isinstance(layer.ffn, Experts) for layer in self.layers):
            yield "adapters", "matrices of experts have none, and stay as they are; a shared expert's have them"
        if self.pooler is not None:
            keep = 'training.frozen=Frozen(parts=("pooler",))'
            yield "pooler", f"no objective here trains it, and weight decay shrinks it; keep it with {keep}"

    def _layer_choices(self) -> list[dict[str, tuple[str, Any]]]:
        """Returns, for every layer and kind of mechanism, the path of the field that chose it, and the choice."""
        position = NoPositions() if self.position.adds_to_embedding else self.position
        base = {"mixer": self.mixer, "ffn": self.ffn, "position": position}
        layers = [{name: (name, option) for name, option in base.items()} for _ in range(self.num_layers)]
        for i, exception in enumerate(self.exceptions):
            for number in exception.layer_numbers(self.num_layers):
                for name, option in exception.changes().items():
                    layers[number][name] = (f"exceptions.{i}.{name}", option)
        return layers

    @property
    def needs_static_batches(self) -> bool:
        """Whether `generate` alone draws its texts: a prompt or a source is read in a way that the engine has not."""
        reads_pages = self.encoder is None or self.encoder.cross.reads_pages
        return self.visibility.prompt_is_prefix or not reads_pages

    @property
    def reads_lengths(self) -> bool:
        """Whether the positions of a layer depend on the length of the document, so that padding must be known."""
        return any(layer.position.reads_lengths for layer in self.layers)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each field that is invalid, alone or together with others, with its problem."""
        for name in ("vocab_size", "context_length", "num_layers", "width"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        if self.num_layers > MAX_LAYERS:
            yield "num_layers", f"must be at most {MAX_LAYERS:,}, got {self.num_layers:,}"
        if self.embedding_width is not None and self.embedding_width < 1:
            yield "embedding_width", f"must be at least 1, or None for that of the layers, got {self.embedding_width}"
        if self.token_types is not None and self.token_types < 1:
            yield "token_types", f"must be at least 1, or None for no types, got {self.token_types}"
        yield from (("position", message) for message in self.position.problems_of_width(self.width))
        if self.final_logit_softcap is not None and self.final_logit_softcap <= 0:
            yield "final_logit_softcap", f"must be above 0, or None for no cap, got {self.final_logit_softcap}"
        if self.layer_scale is not None and self.layer_scale <= 0:
            yield "layer_scale", f"must be above 0, or None for no such factors, got {self.layer_scale}"
        if self.stream_scale is not None and self.stream_scale <= 0:
            yield "stream_scale", f"must be above 0, or None for no such factors, got {self.stream_scale}"
        if self.multi_token is not None and self.prediction_head is not None:
            yield "prediction_head", "modules of multi_token predict without one; set one of them None"
        if self.multi_token is not None:
            yield from self.multi_token.problems_with(self.context_length, "multi_token")
        if self.per_layer_embedding is not None:
            yield from self._problems_of_per_layer_embedding()
        if self.precision.products != "compute" and any(isinstance(layer.ffn, Experts) for layer in self.layers):
            yield "precision.products", f"experts have no products in '{self.precision.products}'; use 'compute'"
        if self.encoder is not None:
            yield from self.encoder.problems_with(self)
        yield from self.parametrization.clashes(self)
        yield from self._problems_of_layers()

    def _problems_of_per_layer_embedding(self) -> Iterator[tuple[str, str]]:
        if not self.residual.one_vector:
            name = type(self.residual).__name__
            yield "per_layer_embedding", f"adds to a stream of one vector a token, and {name} has several; set it None"
        if self.multi_token is not None:
            yield "per_layer_embedding", "has no vectors for the modules of multi_token; set one of them None"

    def _problems_of_layers(self) -> Iterator[tuple[str, str]]:
        if not 1 <= self.num_layers <= MAX_LAYERS or any(
            True for exception in self.exceptions for _ in exception.problems()
        ):
            return
        layers = self._layer_choices()
        used = {path for layer in layers for path, _ in layer.values()}
        yield from self._problems_without_attention(layers)
        yield from (("visibility", message) for message in dict.fromkeys(problems_of_direction(self, layers)))
        for name in ("mixer", "ffn", "position"):
            if name not in used:
                yield name, "no layer has it: the exceptions replace it in all layers; change the exceptions"
        for i, exception in enumerate(self.exceptions):
            where = f"exceptions.{i}"
            if not exception.layer_numbers(self.num_layers):
                yield f"{where}.layers", f"{exception.layers!r} is none of the {self.num_layers} layers"
            elif unused := [name for name in exception.changes() if f"{where}.{name}" not in used]:
                yield f"{where}.{unused[0]}", "no layer has it: later exceptions replace it in all of its layers"
            if exception.position != "same" and self.position.adds_to_embedding:
                added = type(self.position).__name__
                yield f"{where}.position", f"{added} positions are added before the first layer, for all of them alike"
        clashes: dict[tuple[str, str], None] = {}
        mixing = [layer for layer in layers if layer["mixer"][1] is not None]
        for layer in mixing:
            (where, mixer), (position_path, position) = layer["mixer"], layer["position"]
            clashes |= dict.fromkeys(mixer.problems_with(self.width, position, where, position_path))
        yield from clashes
        yield from self._problems_of_sublayers(layers)
        yield from self._problems_of_cross_layer_arrays(mixing)
        yield from dict.fromkeys(self._problems_of_taken_arrays(layers))
        yield from problems_of_sharing(self.layers)
        for where in dict.fromkeys(layer["mixer"][0] for layer in mixing):
            same_mixer = [layer for layer in layers if layer["mixer"][0] == where]
            positions = [
                self.position if self.position.adds_to_embedding else layer["position"][1] for layer in same_mixer
            ]
            yield from same_mixer[0]["mixer"][1].without_effect(positions, where)

    def _problems_of_sublayers(self, layers: list[dict[str, tuple[str, Any]]]) -> Iterator[tuple[str, str]]:
        """Yields layers without sublayers, and residual options that need sublayers which no layer has."""
        sublayers = [layer.sublayers for layer in self.layers]
        empty = dict.fromkeys(layer["ffn"][0] for layer, own in zip(layers, sublayers, strict=True) if not own)
        for where in empty:
            yield where, "None, and mixer is None too, which leaves a layer empty; give it a mixer or an ffn"
        for name, message in self.residual.problems_with(sublayers):
            yield f"residual.{name}", message

    def _problems_of_cross_layer_arrays(self, layers: list[dict[str, tuple[str, Any]]]) -> Iterator[tuple[str, str]]:
        """Yields arrays that layers share and that no later layer can use: of another shape, or of a single layer."""
        shapes: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        for where, mixer in (layer["mixer"] for layer in layers):
            wrong = (*mixer.problems(), *mixer.problems_with(self.width, NoPositions(), "", ""))
            if not wrong:
                for name, (shape, _) in mixer.cross_layer_arrays(self.width).items():
                    shapes.setdefault(name, []).append((where, shape))
        for name, owners in shapes.items():
            if len(owners) == 1:
                yield f"{owners[0][0]}.{name}", "needs at least two layers that have it, and there is one; set it None"
            for where, shape in dict.fromkeys(owners):
                if shape != owners[0][1]:
                    first = " x ".join(str(n) for n in owners[0][1])
                    these = " x ".join(str(n) for n in shape)
                    yield (
                        f"{where}.{name}",
                        f"the first layer that has it shares {first} numbers a token and this one has {these}; "
                        f"give them the same heads, or set it None",
                    )

    def _problems_of_taken_arrays(self, layers: list[dict[str, tuple[str, Any]]]) -> Iterator[tuple[str, str]]:
        """Yields layers that take keys and values from a layer that is not before them, or that has no such ones."""
        for number, (where, mixer) in enumerate(layer["mixer"] for layer in layers):
            if mixer is None or any(mixer.problems()) or (taken := mixer.taken_arrays(self.width)) is None:
                continue
            source, path = taken[0], f"{where}.kv_from_layer"
            if not 0 <= source < number:
                yield path, f"must be the number of a layer before layer {number}, the first is 0; got {source}"
                continue
            other = layers[source]["mixer"][1]
            offered = {} if other is None or any(other.problems()) else other.arrays_to_hand_on(self.width)
            if not offered:
                yield path, f"layer {source} has no keys and values of its own; name a layer of attention that has"
            elif offered != taken[1]:
                yield path, f"layer {source} has other numbers or widths of key heads; give both layers the same"
            elif other.pattern != mixer.pattern:
                yield path, f"layer {source} has another pattern, so that its cache may lack keys; give both the same"

    def _problems_without_attention(self, layers: list[dict[str, tuple[str, Any]]]) -> Iterator[tuple[str, str]]:
        """Yields options that act inside attention and are chosen for recurrent layers alone."""
        recurrent = [layer for layer in layers if not isinstance(layer["mixer"][1], AttentionOption)]
        attention_positions = {layer["position"][0] for layer in layers if layer not in recurrent}
        for path, option in dict(layer["position"] for layer in recurrent).items():
            if path in attention_positions or (path == "position" and isinstance(option, NoPositions)):
                continue
            mixers = dict.fromkeys(_mixer_name(x["mixer"][1]) for x in recurrent if x["position"][0] == path)
            fix = "take NoPositions, Learned or Sinusoidal" if path == "position" else "leave it out"
            yield (
                path,
                f"{type(option).__name__} acts only in attention, and layers with {', '.join(mixers)} have none, "
                f"and no other layer uses it; {fix}",
            )
        if self.dropout.attention and len(recurrent) == len(layers) and self.encoder is None:
            mixers = dict.fromkeys(_mixer_name(layer["mixer"][1]) for layer in recurrent)
            yield (
                "dropout.attention",
                f"drops attention weights, and {', '.join(mixers)} has none; set it to 0, or use dropout.residual",
            )


def model_differences(one: ModelConfig, other: ModelConfig, *ignored: str) -> list[str]:
    """Returns the fields that make two models different functions, `path: one -> other`, without the fields `ignored`.

    Options of training and of execution may differ, and so may the load balancing of experts. A number that is written
    out equals the same number left to its default.
    """
    same = {name: getattr(one, name) for name in (*_training_and_execution_fields(one), *ignored)}
    width = one.width if one.width == other.width else None  # heads may follow from it
    same |= _written_like(one, other, width)
    if len(one.exceptions) == len(other.exceptions):
        pairs = zip(one.exceptions, other.exceptions, strict=True)
        same["exceptions"] = tuple(dataclasses.replace(b, **_written_like(a, b, width)) for a, b in pairs)
    return differences(to_json(one), to_json(dataclasses.replace(other, **same)), "model")


def _training_and_execution_fields(model: ModelConfig) -> list[str]:
    """Returns the fields of training and execution, in which two models with the same parameters may differ."""
    return [path for path in marked_fields(model, "execution", "training") if "." not in path]


def _with_scale(config: ModelConfig, mixer: Any) -> Any:
    """Returns a mixer with the scale of attention of wider heads; "same", None and all others as they are."""
    growth = config.growth.head_dim
    return mixer.with_scale(config.width, growth) if isinstance(mixer, MixerOption) and growth != 1 else mixer


def _mixer_name(mixer: Mixer | None) -> str:
    return "mixer=None" if mixer is None else type(mixer).__name__


def _written_like(one: ModelConfig | Except, other: ModelConfig | Except, width: int | None) -> dict[str, Any]:
    """Returns the mixer and the feed-forward layer of `other`; what equals `one` is written as in `one`."""
    parts: dict[str, Any] = {}
    if isinstance(other.mixer, MixerOption):
        parts["mixer"] = other.mixer.written_like(one.mixer, width)
    if isinstance(other.ffn, FeedForwardOption):
        parts["ffn"] = other.ffn.written_like(one.ffn)
    return parts
