"""The base class of the options of positions."""

from collections.abc import Iterator
from typing import ClassVar


class PositionOption:
    """The base class of the options of positions.

    Attributes:
      adds_to_embedding: whether these positions are added to the embedding, once for all layers.
      rotates: whether these positions rotate queries and keys.
      of_later_keys: whether they are defined for a key after its query too, as in an encoder.
    """

    adds_to_embedding: ClassVar[bool] = False
    rotates: ClassVar[bool] = False
    of_later_keys: ClassVar[bool] = True

    @property
    def reads_lengths(self) -> bool:
        """Whether positions depend on the length of a token's document too, which must then not include padding."""
        return False

    def changes_at(self, length: int) -> bool:
        """Whether the positions of a text of `length` tokens differ from those that it had without its last token."""
        return False

    def problems_of_width(self, width: int) -> Iterator[str]:
        """Yields why these positions cannot be added to a residual stream of this width."""
        yield from ()

    def problems_with(self, head_dim: int, path: str) -> Iterator[tuple[str, str]]:
        """Yields fields that clash with heads of width `head_dim`; `path` is the path of the option."""
        yield from ()
