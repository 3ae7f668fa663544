"""What the options of mixers and of feed-forward layers say of themselves, so that no other file asks which it is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from model.parameters.maker import ParameterMaker
from model.positions.absolute import LayerPosition, Position

if TYPE_CHECKING:  # attention imports this
    from model.attention.patterns import Pattern

# What a layer hands on: shape and logical axes of an array, without batch and sequence.
HandedOn = tuple[tuple[int, ...], tuple[str, ...]]


class MixerOption:
    """The options of what moves information between tokens."""

    def build(self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition) -> Any:
        """The module of one layer: (x_BTD, context, cache) to (y_BTD, cache).

        Args:
          width: D.
          dropout: the share of attention weights dropped while training; a mixer without such weights ignores it.
          reductions: the dtype of sensitive sums.
          make: draws the parameters.
          position: the positions of its layer; a mixer that attends to nothing ignores them.
        """
        raise NotImplementedError

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> Any:
        """The cache or state of one layer before anything was read.

        What the layer's module is given and returns beside activations, with `placed(layout)`; model/attention/cache.py
        has those of keys, where a pattern that reaches no further than some keys back takes as many slots.
        """
        raise NotImplementedError

    def cost(self, width: int, length: int) -> int:
        """Operations of a forward pass over `length` tokens, by the convention of model/cost.py."""
        raise NotImplementedError

    def problems_with(self, width: int, position: Position, path: str, position_path: str) -> Iterator[tuple[str, str]]:
        """Yields what does not go together with a model width or with positions, by the paths of the fields."""
        yield from ()

    def without_effect(self, positions: Sequence[Position], path: str) -> Iterator[tuple[str, str]]:
        """Yields fields that do nothing in any of the layers that have it, whose positions are these."""
        yield from ()

    def hands_on(self, width: int) -> dict[str, HandedOn]:
        """What a layer hands on to those after it (`Context.hand_on`), by the name of the field that asks for it."""
        return {}

    def worded_as(self, other: Any, width: int | None) -> Self:
        """The same mechanism, with what `other` writes out or leaves to follow (at a width) written as there."""
        return self


class AttentionOption(MixerOption):
    """The options of mixers in which queries see keys: positions, patterns and dropout of weights act in them.

    Attributes:
      pattern: which keys a query sees.
    """

    if TYPE_CHECKING:  # no annotation of a field, which options would look up here
        pattern: Pattern

    def rotary_width(self, width: int) -> int:
        """The dimensions of a head that positions may turn, at a model width."""
        raise NotImplementedError


class FeedForwardOption:
    """The options of layers that take each token by itself."""

    def build(self, width: int, make: ParameterMaker) -> Any:
        """The module of one layer: (x_BTD, context) to y_BTD. Args: the model width D, the maker."""
        raise NotImplementedError

    def cost(self, width: int, length: int) -> int:
        """Operations of a forward pass over `length` tokens, by the convention of model/cost.py."""
        raise NotImplementedError

    def idle(self, shapes: Mapping[str, Any]) -> int:
        """How many of its parameters, given by their shapes, a token does not use."""
        return 0

    def worded_as(self, other: Any) -> Self:
        """The same mechanism, with what matters in training alone as in `other`."""
        return self
