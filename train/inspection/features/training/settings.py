"""The options of autoencoders that are trained together on the activations of one model."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from model.errors import UserError
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import check
from train.config_file import assignments_of
from train.inspection.features.autoencoders.batch_top_k import BatchTopK
from train.inspection.features.autoencoders.gated import Gated
from train.inspection.features.autoencoders.jump_relu import JumpReLU
from train.inspection.features.autoencoders.matryoshka import Matryoshka
from train.inspection.features.autoencoders.relu import ReLU
from train.inspection.features.autoencoders.top_k import TopK
from train.schedules import Constant, Cosine, Linear, WarmupStableDecay


class Site(NamedTuple):
    """A place in the model: a tap, and the number of a layer; None for a tap outside of the layers."""

    tap: str
    layer: int | None

    @property
    def text(self) -> str:
        """For messages: "block_output of layer 3"."""
        return self.tap if self.layer is None else f"{self.tap} of layer {self.layer}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """An autoencoder, or a transcoder, of one layer.

    Attributes:
      name: its name in the folder and in the metrics.
      tap: the activation that it reads (model/README.md, "Taps"); that of several heads is read as one vector.
      layer: the layer, -1 for the last; None for a tap outside of the layers.
      output_tap: the activation that a transcoder writes; None for an autoencoder, which writes the one that it reads.
      output_layer: the layer of the output; None for the same layer.
      width: the number of features.
      architecture: what makes features sparse.
      unit_decoder: whether the direction of every feature keeps the length 1. The part of the gradient that would
        change the length is removed before the update (Bricken et al. 2023, "Towards Monosemanticity").
      normalize: whether activations are multiplied by a number, measured once at the start, that makes the mean square
        of an entry's distance from the geometric median 1, so that coefficients mean the same for all models. Written
        weights have it folded in.
    """

    name: str
    tap: str = "block_output"
    layer: int | None = -1
    output_tap: str | None = None
    output_layer: int | None = None
    width: int = 4096
    architecture: ReLU | Gated | JumpReLU | TopK | BatchTopK | Matryoshka = TopK()
    unit_decoder: bool = True
    normalize: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", self.name) or self.name.startswith("."):
            yield "name", f"expected letters, digits, '_', '-' and '.', got {self.name[:70]!r}"
        if self.width < 1:
            yield "width", f"must be at least 1, got {self.width}"
        if self.output_tap is None and self.output_layer is not None:
            yield "output_layer", f"{self.output_layer} is of a transcoder; name its output_tap too, or set it None"
        for field, message in self.architecture.problems_with(self.width, 0):
            yield f"architecture.{field}", message

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes another activation than it reads."""
        return self.output_tap is not None

    def sites(self, num_layers: int) -> tuple[Site, Site]:
        """The places that it reads and writes, with layers counted from the first. Raises UserError."""
        into = _site(self.tap, self.layer, num_layers, f"{self.name}.layer")
        if self.output_tap is None:
            return into, into
        layer = self.layer if self.output_layer is None else self.output_layer
        out = _site(self.output_tap, layer, num_layers, f"{self.name}.output_layer")
        if out == into:
            raise UserError(
                f"autoencoder {self.name!r} reads and writes {into.text}; leave output_tap out, for an autoencoder, or "
                "name another activation, for a transcoder"
            )
        return into, out


def _site(tap: str, layer: int | None, num_layers: int, field: str) -> Site:
    if layer is not None and not -num_layers <= layer < num_layers:
        valid = "0" if num_layers == 1 else f"0 to {num_layers - 1}, or -1 for the last"
        raise UserError(f"{field}: the model has no layer {layer}; layers are {valid}")
    return Site(tap, None if layer is None else layer % num_layers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam without weight decay; the sparse gradients of features want a small `epsilon`."""

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                yield name, f"must be at least 0 and below 1, got {getattr(self, name)}"
        if self.epsilon <= 0:
            yield "epsilon", f"must be above 0, got {self.epsilon}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """Autoencoders that are trained together: one forward pass of the model serves all of them.

    Attributes:
      autoencoders: the autoencoders.
      num_steps: updates of each.
      batch_tokens: the tokens of an update.
      buffer_tokens: the tokens of the shuffle buffer, in the memory of the devices. It is filled, shuffled, and used up
        before it is filled again, so that tokens of one text meet at most that many others. It holds whole batches of
        the run, at least one.
      skip_positions: tokens at the start of a document that are left out; the first often has an activation of another
        size than all others.
      optimizer: Adam.
      schedule: the learning rate.
      clip_norm: the largest norm of the gradient of one autoencoder, or None.
      dead_after: tokens without firing after which a feature is dead.
      eval_every: steps between evaluations on the run's validation split; the last step is evaluated too.
      eval_batches: batches of an evaluation.
      save_every: steps between checkpoints; the last step is saved too.
      log_every: steps between lines of metrics.jsonl.
      seed: of the initial values, of the shuffles and of resampling.
    """

    autoencoders: tuple[Autoencoder, ...]
    num_steps: int = 10_000
    batch_tokens: int = 4096
    buffer_tokens: int = 262_144
    skip_positions: int = 0
    optimizer: Adam = Adam()
    schedule: Constant | Cosine | Linear | WarmupStableDecay = Constant(peak=3e-4)
    clip_norm: float | None = 1.0
    dead_after: int = 1_000_000
    eval_every: int = 1000
    eval_batches: int = 8
    save_every: int = 1000
    log_every: int = 10
    seed: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if not self.autoencoders:
            yield "autoencoders", "expected at least one Autoencoder(...), got none"
        names = [each.name for each in self.autoencoders]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield "autoencoders", f"two have the name {name!r}; give each its own"
        for name in (
            "num_steps",
            "batch_tokens",
            "buffer_tokens",
            "dead_after",
            "eval_every",
            "eval_batches",
            "save_every",
            "log_every",
        ):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"
        for name in ("skip_positions", "seed"):
            if getattr(self, name) < 0:
                yield name, f"must be 0 or more, got {getattr(self, name)}"
        if self.buffer_tokens < self.batch_tokens:
            yield "buffer_tokens", f"{self.buffer_tokens} is less than batch_tokens={self.batch_tokens}; give more"
        if self.clip_norm is not None and self.clip_norm <= 0:
            yield "clip_norm", f"must be above 0, or None for no clipping, got {self.clip_norm}"


def from_file(path: str, overrides: Sequence[str] = ()) -> Features:
    """The checked options that a config file assigns to `features`, with `--set` overrides. Raises UserError."""
    assigned = assignments_of(path)
    features = assigned.get("features")
    if not isinstance(features, Features):
        raise UserError(f"{path} defines no `features = Features(...)`, got {type(features).__name__}")
    return with_overrides(features, overrides)


def with_overrides(features: Features, overrides: Sequence[str] = ()) -> Features:
    """The checked options with `--set` overrides applied in order. Raises UserError."""
    for assignment in overrides:
        features = override(features, assignment)
    check(features)
    resolved: Features = from_json(Features, to_json(features))
    return resolved


def autoencoder_named(features: Features, name: str | None, folder: pathlib.Path) -> Autoencoder:
    """The autoencoder of a name; the only one by default. Raises UserError with the names that there are."""
    names = [each.name for each in features.autoencoders]
    if name is None and len(names) == 1:
        return features.autoencoders[0]
    if name not in names:
        given = "several autoencoders" if name is None else f"no autoencoder {name!r}"
        raise UserError(f"{folder} has {given}; name one of {', '.join(names)}")
    return features.autoencoders[names.index(name)]
