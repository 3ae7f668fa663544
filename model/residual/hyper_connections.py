"""Hyper-connections: n streams, which sublayers read, write and mix with trained weights.

Zhu et al. 2024, "Hyper-Connections" (arXiv 2409.19606), sections 2.1 to 2.3. With H (n, D) the streams of a token, F a
sublayer and N the norm of its input,

    h = A_m^T H        H' = A_r^T H + B^T F(N(h))                                              (2)

where A_m (n) weighs the streams that the sublayer reads, A_r (n, n) mixes the streams, and B (n) weighs its output for
each stream. All streams begin as the embedding; the logits read their sum. *Static* weights are parameters. *Dynamic*
weights depend on the streams, with R = N'(H) for a separate norm N' and a trained matrix U for each of the three:

    A_m + s_a tanh(R U_m)        A_r + s_a tanh(R U_r)        B + s_b tanh(R U_b)               (10 to 13)

At initialization A_r is the identity, B is ones, A_m takes the (k mod n)-th stream in the k-th sublayer of the model
(14), U is 0 and both s are 0.01. Then each stream equals that of pre-norm, and with one stream the model is a pre-norm
model. Weight decay applies to the dynamic part (U and both s) and not to the static part, as in section 4,
"Implementation".

Two things differ from the paper: N' is the model's kind of norm (there LayerNorm, appendix J). Matrices that write to
the stream have the same initial values as under every other scheme; section 4 scales their deviations by n^(1/2), for
the sum of the streams before the last norm.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.context import Context
from model.norms import Norm
from model.parameters.maker import ParameterMaker
from model.parameters.mixed_precision import cast_like, weight_einsum
from model.residual.scheme import LayerSettings, ResidualOption, ResidualStream, Sublayer

AXES = ("batch", "sequence", None, "embed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Weights that depend on the streams; both factors s start at `scale`."""

    scale: float = 0.01

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.scale <= 0:
            yield "scale", f"must be above 0, or dynamic=None for static weights, got {self.scale}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperConnections(ResidualOption):
    """Several streams; a sublayer reads a weighted, normalised sum of them and writes to each.

    Attributes:
      streams: n; the paper compares 1, 2, 4 and 8.
      dynamic: how weights depend on the streams; None for static weights.
    """

    streams: int = 4
    dynamic: Dynamic | None = Dynamic()

    one_vector: ClassVar[bool] = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.streams < 1:
            yield "streams", f"must be at least 1, got {self.streams}"

    def build(self, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int) -> ResidualStream:
        """Returns the module of one layer."""
        return HyperConnectionsStream(self, settings, make, sublayers_before)

    def enter(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the embedding n times, (B, T, n, D)."""
        return jnp.repeat(x_BTD[:, :, None], self.streams, axis=2)

    def leave(self, stream: jax.Array) -> jax.Array:
        """Returns the sum of the streams, (B, T, D)."""
        return jnp.sum(stream, axis=2)

    def cost(self, width: int, length: int, sublayers: int) -> int:
        """Returns the operations that mix n streams and, if weights are dynamic, that compute them."""
        n = self.streams
        mixing = n + n * n + n  # read, pass, write
        dynamic = n * (n + 2) if self.dynamic else 0
        return 2 * length * width * (mixing + dynamic) * sublayers


class StreamInLayer(NamedTuple):
    """The mixed streams within a layer (B, T, n, D), and the weights B of the write, (B, T, n) or (n)."""

    mixed_BTnD: jax.Array
    write: jax.Array


class HyperConnectionsStream(ResidualStream):
    """The weights and norms of each sublayer."""

    def __init__(
        self, option: HyperConnections, settings: LayerSettings, make: ParameterMaker, sublayers_before: jax.Array | int
    ) -> None:
        """Args: the option, the settings of the model and the layer, the maker, the number of sublayers before."""
        super().__init__(settings, make)
        self.make_norms("norm", make)
        n, width, dynamic = option.streams, settings.width, option.dynamic
        for index, i in enumerate(settings.sublayers):
            read = jax.nn.one_hot((sublayers_before + index) % n, n)
            self.set_part("read", i, make.from_values("mixing", read, (None,)))
            self.set_part("pass", i, make.from_values("mixing", jnp.eye(n), (None, None)))
            self.set_part("write", i, make.constant("mixing", 1.0, (n,), (None,)))
            if dynamic is not None:
                norm = Norm(settings.norm, (width,), ("embed",), make, settings.reductions)
                self.set_part("dynamic_norm", i, norm)
                self.set_part("dynamic", i, make.zeros((width, n + 2), ("embed", None), "dynamic_mixing"))
                self.set_part("mix_scale", i, make.constant("dynamic_mixing", dynamic.scale, (), ()))
                self.set_part("write_scale", i, make.constant("dynamic_mixing", dynamic.scale, (), ()))
        self.dynamic = dynamic is not None

    def read(self, stream: jax.Array, i: Sublayer) -> tuple[jax.Array, StreamInLayer]:
        """Returns N(A_m^T H), and the streams A_r^T H with B."""
        weights = tuple(self.part(name, i)[...] for name in ("read", "pass", "write"))
        if self.dynamic:
            normed_BTnD = self.part("dynamic_norm", i)(stream)
            dynamic_BTnM = jnp.tanh(weight_einsum("BTnD,DM->BTnM", normed_BTnD, self.part("dynamic", i)[...]))
            updates = dynamic_BTnM[..., 0], dynamic_BTnM[..., 1:-1], dynamic_BTnM[..., -1]
            scales = (self.part(name, i)[...] for name in ("mix_scale", "mix_scale", "write_scale"))
            scaled_updates = [cast_like(scale, x) * x for scale, x in zip(scales, updates, strict=True)]
            weights = tuple(cast_like(weight, x) + x for weight, x in zip(weights, scaled_updates, strict=True))
            read_BTD = jnp.einsum("BTnD,BTn->BTD", stream, weights[0])
            mixed_BTnD = jnp.einsum("BTnD,BTnm->BTmD", stream, weights[1])
        else:
            read_BTD = weight_einsum("BTnD,n->BTD", stream, weights[0])
            mixed_BTnD = weight_einsum("BTnD,nm->BTmD", stream, weights[1])
        return self.part("norm", i)(read_BTD), StreamInLayer(mixed_BTnD, weights[2])

    def write(self, stream: StreamInLayer, y_BTD: jax.Array, i: Sublayer, context: Context) -> jax.Array:
        """Returns A_r^T H + B^T y."""
        y_BTnD = jnp.broadcast_to(self.sublayer_output(y_BTD, i, context)[:, :, None], stream.mixed_BTnD.shape)
        y_BTnD = y_BTnD * cast_like(stream.write[..., None], y_BTnD)
        return context.shard(stream.mixed_BTnD + y_BTnD, AXES)
