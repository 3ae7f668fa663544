"""Parallel sublayers: x + A(N(x)) + F(M(x)).

Wang, Komatsuzaki 2021, "GPT-J-6B", where M is N; Black et al. 2022, "GPT-NeoX-20B", section 2.1.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import Around, Scheme, Stream, Sublayer, placed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel(Scheme):
    """Mixer and feed-forward read the same stream, with one norm for both or one for each."""

    shared_norm: bool = True

    def problems_with(self, most: int) -> Iterator[tuple[str, str]]:
        """Yields fields without effect in a model whose layers have at most `most` sublayers."""
        if most < 2 and not self.shared_norm:
            yield "shared_norm", "no layer has both a mixer and a feed-forward, which could have a norm each"

    def build(self, around: Around, make: ParameterMaker, before: jax.Array | int) -> Stream:
        """Returns the module of one layer."""
        return ParallelStream(self.shared_norm, around, make)


class Within(NamedTuple):
    """The stream within a layer: the input, the input after the first norm, and the input plus the outputs so far."""

    x_BTD: jax.Array
    normed_BTD: jax.Array
    sum_BTD: jax.Array


class ParallelStream(Stream):
    """One norm, or one for each sublayer."""

    def __init__(self, shared_norm: bool, around: Around, make: ParameterMaker) -> None:
        """Args: whether sublayers share their norm, the settings of model and layer, the maker of parameters."""
        super().__init__(around, make)
        self.make_norms("norm", make, *around.sublayers[shared_norm:][:shared_norm])

    def read(self, stream: jax.Array | Within, i: Sublayer) -> tuple[jax.Array, Within]:
        """Returns N(x), and the stream within the layer."""
        norm = self.part("norm", i)
        if isinstance(stream, Within):
            return stream.normed_BTD if norm is None else norm(stream.x_BTD), stream
        normed_BTD = norm(stream)
        return normed_BTD, Within(stream, normed_BTD, stream)

    def write(self, stream: Within, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array | Within:
        """Returns x + y after the last sublayer, and before it the stream within the layer."""
        sum_BTD = stream.sum_BTD + self.scaled(y_BTD, i, context)
        return placed(sum_BTD, context) if i == self.around.sublayers[-1] else stream._replace(sum_BTD=sum_BTD)
