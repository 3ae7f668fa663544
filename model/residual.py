"""The residual stream: where norms sit, how sublayers are added, and the factors along the way.

With F a sublayer and N its norm, the next value of the stream x is

| option      | stream                | from                                                                           |
|-------------|-----------------------|--------------------------------------------------------------------------------|
| `PreNorm`   | x + F(N(x))           | Radford et al. 2019 (GPT-2), section 2.3                                       |
| `PostNorm`  | N(alpha x + F(x))     | Vaswani et al. 2017, section 3.1; alpha: Wang et al. 2022, "DeepNet", figure 2 |
| `Sandwich`  | x + M(F(N(x)))        | Ding et al. 2021, "CogView", section 2.4; Gemma 2                              |
| `Reordered` | x + N(F(x))           | OLMo et al. 2025, "2 OLMo 2 Furious", section 3.2                              |
| `Parallel`  | x + A(N(x)) + F(M(x)) | Wang, Komatsuzaki 2021 (GPT-J, M is N); Black et al. 2022 (GPT-NeoX)           |

The stream of all but `PostNorm` is normalised once more before the logits.
"""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreNorm:
    """Sublayers read the normalised stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostNorm:
    """The sum is normalised; `alpha` weighs the stream in it (DeepNet: (2 num_layers)^(1/4), and an initial `beta`)."""

    alpha: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        if self.alpha <= 0:
            yield "alpha", f"must be above 0, got {self.alpha}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sandwich:
    """What a sublayer reads and what it writes are normalised."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reordered:
    """What a sublayer writes is normalised, and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel:
    """Attention and feed-forward read the same stream; with one norm for both, or one for each."""

    shared_norm: bool = True


Residual = PreNorm | PostNorm | Sandwich | Reordered | Parallel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Constant factors.

    Attributes:
      embedding: on token embeddings, after their norm (Gemma: width^(1/2); Granite).
      residual: on what every sublayer adds to the stream (Granite).
      logits: on logits, before they are capped (Granite and muP: below 1; Cohere, Grok).
    """

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                yield field.name, f"must be above 0, got {getattr(self, field.name)}"
