"""The interfaces of mixer and feed-forward options, so that no other file needs to test the class of an option."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from model.parameters.maker import ParameterMaker
from model.positions.absolute import LayerPosition, Position

if TYPE_CHECKING:  # attention imports this
    from model.attention.patterns import Pattern

# An array that a layer shares with later layers: its shape and logical axes, without batch and sequence.
CrossLayerShape = tuple[tuple[int, ...], tuple[str, ...]]


class MixerOption:
    """The interface of mixer options. A mixer moves information between tokens."""

    def build(self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition) -> Any:
        """Returns the module of one layer: (x_BTD, context, cache) to (y_BTD, cache).

        Args:
          width: D.
          dropout: the dropout rate of attention weights in training; a mixer without attention weights ignores it.
          reductions: the dtype of sensitive sums.
          make: draws the parameters.
          position: the position option of the layer; a mixer without attention ignores it.
        """
        raise NotImplementedError

    def empty_cache(self, width: int, batch: int, length: int, dtype: str) -> Any:
        """Returns the cache or state of one layer before the first token.

        The layer's module takes and returns it beside activations; it has a method `sharded(layout)`. The caches of
        keys are in model/attention/cache.py: a pattern that sees only the last R keys needs R slots.
        """
        raise NotImplementedError

    def cost(self, width: int, length: int) -> int:
        """Returns the operations of a forward pass over `length` tokens, by the convention of model/cost.py."""
        raise NotImplementedError

    def problems_with(self, width: int, position: Position, path: str, position_path: str) -> Iterator[tuple[str, str]]:
        """Yields each field that clashes with the model width or with the positions, by its path, with the problem."""
        yield from ()

    def without_effect(self, positions: Sequence[Position], path: str) -> Iterator[tuple[str, str]]:
        """Yields fields without effect in all layers that have this option; `positions` are those of the layers."""
        yield from ()

    def cross_layer_arrays(self, width: int) -> dict[str, CrossLayerShape]:
        """Returns the arrays for later layers (`Context.share_first`), by the name of the field that needs them."""
        return {}

    def arrays_to_hand_on(self, width: int) -> dict[str, CrossLayerShape]:
        """Returns the arrays that a later layer can take from this one (`Context.hand_on`), by name."""
        return {}

    def taken_arrays(self, width: int) -> tuple[int, dict[str, CrossLayerShape]] | None:
        """Returns the number of the layer that the field `kv_from_layer` names and the arrays that it must hand on."""
        return None

    def with_scale(self, width: int, growth: float) -> Self:
        """Returns the same mixer with a scale of scores for heads that are so many times wider, unless it has one."""
        return self

    def written_like(self, other: Any, width: int | None) -> Self:
        """Returns the same mechanism; a field with the same value in `other`, at this width, is written as there."""
        return self


class AttentionOption(MixerOption):
    """The options of mixers in which queries see keys: positions, patterns and dropout of weights act in them.

    Attributes:
      pattern: which keys a query sees.
    """

    if TYPE_CHECKING:  # not a field annotation: options would look up its names here
        pattern: Pattern

    def cost_of_later_keys(self, width: int, length: int) -> int:
        """Returns the further operations over `length` tokens where queries see later keys too, as in an encoder."""
        raise NotImplementedError

    def rotary_width(self, width: int) -> int:
        """Returns the number of dimensions of a head that rotary positions may rotate, at a model width."""
        raise NotImplementedError


class FeedForwardOption:
    """The interface of feed-forward options. A feed-forward layer transforms each token by itself."""

    def build(self, width: int, reductions: str, make: ParameterMaker) -> Any:
        """Returns the module of one layer: (x_BTD, context) to y_BTD.

        Args:
          width: D.
          reductions: the dtype of sensitive sums; a layer without norms ignores it.
          make: draws the parameters.
        """
        raise NotImplementedError

    def cost(self, width: int, length: int) -> int:
        """Returns the operations of a forward pass over `length` tokens, by the convention of model/cost.py."""
        raise NotImplementedError

    def inactive_parameters(self, shapes: Mapping[str, Any]) -> int:
        """Returns how many of its parameters, given by their shapes, one token does not use."""
        return 0

    def written_like(self, other: Any) -> Self:
        """Returns the same mechanism; fields that matter only in training are as in `other`."""
        return self
