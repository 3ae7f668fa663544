"""Parallel sublayers: x + A(N(x)) + F(M(x)).

Wang, Komatsuzaki 2021, "GPT-J-6B", where M is N; Black et al. 2022, "GPT-NeoX-20B", section 2.1.
"""

import dataclasses
from collections.abc import Collection, Iterator
from typing import ClassVar, NamedTuple

import jax

from model.context import Context
from model.parameters.maker import ParameterMaker
from model.residual.scheme import LayerSettings, ResidualOption, ResidualStream, Sublayer, shard_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel(ResidualOption):
    """Mixer and feed-forward read the same stream, with one norm for both or one for each."""

    shared_norm: bool = True

    additive: ClassVar[bool] = True

    def problems_with(self, sublayers: Collection[tuple[Sublayer, ...]]) -> Iterator[tuple[str, str]]:
        """Yields fields without effect in a model whose layers have these sublayers."""
        if max(map(len, sublayers)) < 2 and not self.shared_norm:
            yield "shared_norm", "no layer has both a mixer and a feed-forward, which could have a norm each"

    def build(self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int) -> ResidualStream:
        """Returns the module of one layer."""
        return ParallelStream(self.shared_norm, settings, make)


class StreamInLayer(NamedTuple):
    """The stream within a layer: the input, the input after the first norm, and the input plus the outputs so far."""

    x_BTD: jax.Array
    normed_BTD: jax.Array
    sum_BTD: jax.Array


class ParallelStream(ResidualStream):
    """One norm, or one for each sublayer."""

    def __init__(self, shared_norm: bool, settings: LayerSettings, make: ParameterMaker) -> None:
        """Args: whether sublayers share their norm, the settings of model and layer, the maker of parameters."""
        super().__init__(settings, make)
        self.make_norms("norm", make, *(settings.sublayers[1:] if shared_norm else ()))

    def read(self, stream: jax.Array | StreamInLayer, i: Sublayer) -> tuple[jax.Array, StreamInLayer]:
        """Returns N(x), and the stream within the layer."""
        norm = self.part("norm", i)
        if isinstance(stream, StreamInLayer):
            return stream.normed_BTD if norm is None else norm(stream.x_BTD), stream
        normed_BTD = norm(stream)
        return normed_BTD, StreamInLayer(stream, normed_BTD, stream)

    def write(
        self, stream: StreamInLayer, y_BTD: jax.Array, i: Sublayer, context: Context
    ) -> jax.Array | StreamInLayer:
        """Returns x + y after the last sublayer, and before it the stream within the layer."""
        sum_BTD = stream.sum_BTD + self.sublayer_output(y_BTD, i, context)
        return shard_stream(sum_BTD, context) if i == self.settings.sublayers[-1] else stream._replace(sum_BTD=sum_BTD)
