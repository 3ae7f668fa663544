"""Which way tokens see each other, as an option of a model: only earlier ones, all, or all of a prefix.

Bidirectional: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
section 3. Prefix: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (T5), section 3.2.4 and figure 4, "causal with prefix"; Liu et al. 2018, "Generating Wikipedia by
Summarizing Long Sequences". Patterns (patterns.py) and documents limit what a direction shows.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from model.errors import UserError
from model.interfaces import AttentionOption
from model.kernels.visibility import Coordinates, Visibility, causal

if TYPE_CHECKING:  # the config imports this
    from model.config import ModelConfig


class DirectionOption:
    """The interface of directions.

    Attributes:
      sees_later: whether a token may see later ones: then a padding token at the end of a row must be kept apart.
      decodes: whether a text can be continued token by token.
      prompt_is_prefix: whether the tokens of a prompt see each other, so that a prompt is read in one call.
    """

    sees_later: ClassVar[bool] = False
    decodes: ClassVar[bool] = True
    prompt_is_prefix: ClassVar[bool] = False

    def apply(self, visibility: Visibility, prefix: jax.Array | None) -> Visibility:
        """Returns the visibility that a causal one becomes; `prefix` (B, T) or (B, 1) as for `stream`."""
        if prefix is not None:
            raise UserError("prefix_BT: only a model with visibility=PrefixLM() has prefixes; leave it out")
        return visibility


@dataclasses.dataclass(frozen=True, kw_only=True)
class Causal(DirectionOption):
    """A token sees itself and the tokens before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bidirectional(DirectionOption):
    """A token sees all tokens of its document: an encoder."""

    sees_later: ClassVar[bool] = True
    decodes: ClassVar[bool] = False

    def apply(self, visibility: Visibility, prefix: jax.Array | None) -> Visibility:
        """See `DirectionOption`."""
        return dataclasses.replace(super().apply(visibility, prefix), causal=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(DirectionOption):
    """A token sees the tokens before it and all tokens of its document's prefix; without a prefix it is causal.

    In training the objective draws the prefix; in generation it is the prompt.
    """

    sees_later: ClassVar[bool] = True
    prompt_is_prefix: ClassVar[bool] = True

    def apply(self, visibility: Visibility, prefix: jax.Array | None) -> Visibility:
        """See `DirectionOption`."""
        return visibility if prefix is None else visibility.with_prefix(prefix)


Direction = Causal | Bidirectional | PrefixLM


def visible_rows(
    direction: Direction, tokens: Coordinates, lengths_B: jax.Array | None, prefix: jax.Array | None, **options: Any
) -> Visibility:
    """Returns which tokens of whole rows see each other; `lengths_B`, `prefix` are arguments of `stream`.

    Where tokens see later ones, the padding of rows without documents is made a document of its own. `options` are
    those of `model.kernels.visibility.causal`.
    """
    if direction.sees_later and lengths_B is not None and tokens.segment_ids is None:
        is_padding_BT = tokens.indices() >= lengths_B[:, None]
        tokens = dataclasses.replace(tokens, segment_ids=is_padding_BT.astype(jnp.int32))
    return direction.apply(causal(tokens, **options), prefix)


def problems_of_direction(config: "ModelConfig", layers: Iterable[dict[str, tuple[str, Any]]]) -> Iterator[str]:
    """Yields why the layers of a model, as `ModelConfig.problems` has them, cannot see later tokens."""
    if not config.visibility.sees_later:
        return
    name = type(config.visibility).__name__
    if config.multi_token is not None:
        yield f"{name} shows a token what multi_token predicts from it; set one of them back"
    if config.visibility.prompt_is_prefix and config.reads_lengths:
        yield f"{name} reads a prompt once, and these positions change as a text grows; use others"
    for layer in layers:
        (where, mixer), (position_path, position) = layer["mixer"], layer["position"]
        if mixer is not None and not isinstance(mixer, AttentionOption):
            yield f"{name} has no effect on {where}={type(mixer).__name__}, which reads tokens in order; use Causal()"
        elif mixer is not None and not position.of_later_keys:
            yield (
                f"{position_path}={type(position).__name__} has no numbers for keys after their query, which {name} "
                "shows; use Rotary, Learned, Sinusoidal or NoPositions"
            )


def refuse_without_decoding(config: "ModelConfig", what: str) -> None:
    """Raises UserError for a model whose texts cannot be continued; `what` is what was asked for."""
    if not config.visibility.decodes:
        raise UserError(
            f"{what}: this model sees a text from both sides (visibility={type(config.visibility).__name__}()). It "
            "fills in masked tokens and predicts no next one; take a causal model, or measure masked tokens with "
            "python -m launch.evaluate"
        )


def refuse_without_chunks(config: "ModelConfig", what: str) -> None:
    """Raises UserError for a model that cannot read a prompt in parts, as the engine does; `what` was asked for."""
    refuse_without_decoding(config, what)
    if config.visibility.prompt_is_prefix:
        raise UserError(
            f"{what}: the engine reads a prompt in parts, and all tokens of a prompt see each other in this model "
            "(visibility=PrefixLM()); use python -m launch.generate with --prompt, or model.inference.generate.generate"
        )
