"""How initial values, learning rates and constant factors follow from the size of a model, so that tuned ones transfer.

With m the model's width over that of a base model, and n its number of layers over that of the base:

| parameters                                    | deviation | rate (Adam)         | forward pass         |
|-----------------------------------------------|-----------|---------------------|----------------------|
| tables, biases, norms, all others             | 1         | n^(alpha - 1)       |                      |
| matrices from one hidden vector to another    | m^-1/2    | m^-1 n^(alpha - 1)  | outputs of sublayers |
| (inputs and outputs grow)                     |           |                     | n^-alpha             |
| matrices to a fixed number of outputs         | m^-1      | m^-1 n^(alpha - 1)  |                      |
| (routers, gates of a shared expert)           |           |                     |                      |
| the unembedding, tied or not                  | 1         | 1                   | logits m^-1          |

The powers of n are for parameters inside the layers. `MuP` has the powers of m (Yang et al. 2022, "Tensor Programs V",
table 8, which is equal to table 3 with a factor in the forward pass and so can tie the unembedding); `CompleteP` has
both (Dey et al. 2025, "Don't be lazy: CompleteP enables compute-efficient deep transformers", table 1). The factor on
attention scores is 1 / H for heads of width H, times the root of the base's H: the usual H^-1/2 if heads do not become
wider. Weight decay pulls by rate * weight_decay per step whatever the factor on the rate is, and epsilon is compared
with gradients at their size in the base model; both as in CompleteP with alpha = 1 (otherwise its decay has the
factor n^(alpha - 1) too, which is left out here). In the base model every factor is 1.

A base model has the proportions of the model: the widths of feed-forward layers and the ranks of latents grow as the
model's width does, and so do heads times their width. The vocabulary, the number of experts, a single key head that all
queries share, and the state of a state space do not grow. Growth is read from the axes of a parameter.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from model.parameters.specs import Growth, Role

if TYPE_CHECKING:  # the config has a parametrisation
    from model.config import ModelConfig

# The axes that are in proportion to the model's width, and those that count heads.
_WIDTHS, _HEADS = frozenset({"embed", "ffn", "rank"}), frozenset({"heads", "kv_heads"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelGrowth:
    """How much larger a model is than its base model.

    Attributes:
      width: m, the growth of the model's width.
      head_dim: the growth of the width of heads; the number of heads grows by the rest.
      layers: n, the growth of the number of layers, for parameters of layers; 1 for all others.
      residual: the factor on the outputs of sublayers, for parameters of layers; 1 for all others.
    """

    width: float = 1.0
    head_dim: float = 1.0
    layers: float = 1.0
    residual: float = 1.0

    @property
    def outside_of_layers(self) -> "ModelGrowth":
        """The growth for parameters that are in no layer."""
        return dataclasses.replace(self, layers=1.0, residual=1.0)

    def of_axes(self, axes: Mapping[str, int]) -> float:
        """Returns the growth of the number of entries along axes together, by their names with their sizes."""
        if _WIDTHS & axes.keys():
            return self.width
        # One key head for all queries is one in the base model too.
        heads = any(axes[name] > 1 for name in _HEADS & axes.keys())
        return (self.width / self.head_dim if heads else 1.0) * (self.head_dim if "head_dim" in axes else 1.0)

    def of_parameter(self, role: Role, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Growth:
        """Returns the growth of a parameter from the names and sizes of its input and output axes.

        The factor on logits makes an unembedding a transposed table: its entries keep their size, as those of a tied
        one do. A recurrent matrix maps a vector to vectors of the same width.
        """
        if role == "unembedding":
            inputs, outputs = outputs, inputs
        from_inputs = self.of_axes(inputs)
        to_outputs = from_inputs if role == "recurrent" else self.of_axes(outputs)
        return Growth(inputs=from_inputs, outputs=to_outputs, layers=self.layers, residual=self.residual)


NO_GROWTH = ModelGrowth()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard:
    """No factors: initial values, rates and multipliers are as the other options say, at every size."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from ()

    def initial_layers(self, num_layers: int) -> int:
        """Returns the number of layers for `scale_residual`, whose initial deviations follow from it."""
        return num_layers

    def growth(self, config: "ModelConfig") -> ModelGrowth:
        """Returns how much larger a model is than the base model."""
        return NO_GROWTH

    def clashes(self, config: "ModelConfig") -> Iterator[tuple[str, str]]:
        """Yields the fields of a model that this parametrisation has no rule for, each with the problem."""
        yield from ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuP(Standard):
    """Maximal update parametrisation: a learning rate that is the best at one width is the best at every width.

    Attributes:
      base_width: the width of the base model, at which rate and initial deviations are those of the config.
      wider: what a wider model has more of: "heads" of the same width, or dimensions of its heads ("head_dim"). A scale
        of attention that the config gives as a number stays as it is.
    """

    base_width: int
    wider: Literal["heads", "head_dim"] = "heads"

    name: ClassVar[str] = "MuP"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for field in ("base_width", "base_layers"):
            value = getattr(self, field, None)
            if value is not None and value < 1:
                yield field, f"must be at least 1, got {value}"

    def growth(self, config: "ModelConfig") -> ModelGrowth:
        """Returns how much larger a model is than the base model."""
        growth = config.width / self.base_width
        return ModelGrowth(width=growth, head_dim=growth if self.wider == "head_dim" else 1.0)

    def clashes(self, config: "ModelConfig") -> Iterator[tuple[str, str]]:
        """Yields the fields of a model that this parametrisation has no rule for, each with the problem."""
        none = f"{self.name} has no rule for it"
        if config.embedding_width is not None:
            yield "embedding_width", f"{none}: the table's width may grow or not; set it None, or use Standard()"
        if config.encoder is not None:
            yield "encoder", f"{none}; set it None, or use Standard()"
        if config.per_layer_embedding is not None:
            yield "per_layer_embedding", f"{none}; set it None, or use Standard()"
        if not config.residual.one_vector:
            name = type(config.residual).__name__
            yield "residual", f"{none}: {name} mixes streams by weights of its own; use PreNorm(), or Standard()"
        if getattr(config.unembedding, "unit_norm", False):
            yield "unembedding.unit_norm", f"{none}: it undoes the size of the matrix; set it False, or use Standard()"
        given = [config.mixer, *(exception.mixer for exception in config.exceptions)]
        mixers = [mixer for mixer in given if mixer not in (None, "same")]
        if not mixers and self.wider == "head_dim":
            yield "parametrization.wider", "no layer has heads, which could become wider; leave it out"
        if self.wider == "heads" and any(getattr(mixer, "num_heads", None) == 1 for mixer in mixers):
            yield "parametrization.wider", "a mixer has a single head, which becomes wider; set it to 'head_dim'"
        if self.wider == "head_dim" and any(hasattr(mixer, "state_dim") for mixer in mixers):
            yield "parametrization.wider", "the heads of a state space become more and not wider; set it to 'heads'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompleteP(MuP):
    """MuP, and a depth rule: the best rate stays the best at every depth too.

    Attributes:
      base_layers: the number of layers of the base model.
      alpha: the power of the depth: sublayers write n^-alpha times their output. 1 is CompleteP, 1/2 the rule of Yang
        et al. 2023, "Tensor Programs VI".
    """

    base_layers: int
    alpha: float = 1.0

    name: ClassVar[str] = "CompleteP"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if not 0.5 <= self.alpha <= 1:
            yield "alpha", f"must be from 0.5 to 1, got {self.alpha}"

    def initial_layers(self, num_layers: int) -> int:
        """Returns the number of layers for `scale_residual`: that of the base, since n^-alpha is for the others."""
        return self.base_layers

    def growth(self, config: "ModelConfig") -> ModelGrowth:
        """Returns how much larger a model is than the base model."""
        layers = config.num_layers / self.base_layers
        growth = super().growth(config)
        return dataclasses.replace(growth, layers=layers, residual=layers**-self.alpha)

    def clashes(self, config: "ModelConfig") -> Iterator[tuple[str, str]]:
        """Yields the fields of a model that this parametrisation has no rule for, each with the problem."""
        yield from super().clashes(config)
        none = f"{self.name} has no rule for it"
        if not config.residual.final_norm:
            name = type(config.residual).__name__
            yield "residual", f"{none}: {name} normalises the stream in every layer; use PreNorm(), or MuP"
        if config.multi_token is not None:
            yield "multi_token", f"{none}: its modules are no layers of the stack; set it None, or use MuP"
        if config.stream_scale is not None:
            yield "stream_scale", f"{none}: its powers grow with depth; set it None, or use MuP"
        if config.initialization.beta != 1:
            yield "initialization.beta", f"{none}: DeepNet's beta is for one depth; set it to 1, or use MuP"
