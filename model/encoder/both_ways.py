"""Two recurrences in an encoder: one reads a source from its first token to its last, one from its last to its first.

Schuster, Paliwal 1997, "Bidirectional Recurrent Neural Networks"; Bahdanau, Cho, Bengio 2015, "Neural Machine
Translation by Jointly Learning to Align and Translate", section 3.2. Each has parameters of its own, and the sum of
their outputs is a projection of both hidden vectors side by side.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from model.context import Context
from model.interfaces import MixerOption
from model.parameters.maker import ParameterMaker
from model.positions.absolute import LayerPosition, Position
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace


@dataclasses.dataclass(frozen=True, kw_only=True)
class BothWays(MixerOption):
    """See the module; only an encoder can have it.

    Attributes:
      mixer: the recurrence, of which each layer has two.
    """

    mixer: LinearAttention | GatedDelta | StateSpace | LSTM | GRU

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields nothing: the recurrence names its own problems."""
        yield from ()

    def problems_with(self, width: int, position: Position, path: str, position_path: str) -> Iterator[tuple[str, str]]:
        """See `MixerOption`."""
        yield from self.mixer.problems_with(width, position, f"{path}.mixer", position_path)

    def build(
        self, width: int, dropout: float, reductions: str, make: ParameterMaker, position: LayerPosition
    ) -> "BothWaysMixer":
        """See `MixerOption`."""
        return BothWaysMixer(*(self.mixer.build(width, dropout, reductions, make, position) for _ in range(2)))

    def cost(self, width: int, length: int) -> int:
        """See `MixerOption`."""
        return 2 * self.mixer.cost(width, length)


class BothWaysMixer(nnx.Module):
    """The two modules."""

    def __init__(self, forward: Any, backward: Any) -> None:
        """Args: the modules of the two recurrences."""
        self.forward, self.backward = forward, backward

    def __call__(self, x_BTD: jax.Array, context: Context, cache: None) -> tuple[jax.Array, None]:
        """Maps (B, T, D) to (B, T, D): an encoder reads a source at once, and keeps no state."""
        assert context.real_BT is None, "the padding of a source is a document of its own"
        ids_BT = context.segment_ids_BT
        flipped = dataclasses.replace(context, segment_ids_BT=None if ids_BT is None else -ids_BT[:, ::-1])
        return self.forward(x_BTD, context, None)[0] + self.backward(x_BTD[:, ::-1], flipped, None)[0][:, ::-1], None
