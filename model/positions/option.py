"""What the options of positions say of themselves."""

from collections.abc import Iterator
from typing import ClassVar


class PositionOption:
    """The options of positions.

    Attributes:
      added: whether they are added to the embedding, once for all layers.
      turns: whether they turn queries and keys.
    """

    added: ClassVar[bool] = False
    turns: ClassVar[bool] = False

    @property
    def reads_lengths(self) -> bool:
        """Whether a token is placed by the length of its document too, which padding must then not be a part of."""
        return False

    def problems_of_width(self, width: int) -> Iterator[str]:
        """Yields why they cannot be added to a stream of this width."""
        yield from ()

    def problems_with(self, head_dim: int, path: str) -> Iterator[tuple[str, str]]:
        """Yields what does not go together with heads of this width; `path` is that of the option."""
        yield from ()
