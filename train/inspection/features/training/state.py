"""The arrays that an autoencoder carries from one update to the next, and their places on the mesh."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from train.inspection.features.autoencoders.interface import Params
from train.inspection.features.training.settings import Adam, Autoencoder
from train.inspection.features.training.stream import Block
from train.parallel.table import MeshLayout

MEDIAN_STEPS = 20  # of Weiszfeld's iteration for the geometric median
MEDIAN_TOKENS = 8192  # tokens that it reads
_BIASES = ("encoder_bias", "gate_bias", "magnitude_bias")


@struct.dataclass
class AutoencoderState:
    """The state of one autoencoder.

    Attributes:
      params: the parameters, of normalised activations: encoder (D, M), decoder (M, O), decoder_bias (O,), and those of
        the architecture.
      moments: the state of Adam.
      silent_M: the tokens since each feature fired, int32; it stops at `dead_after`.
      input_scale: the number that normalises inputs.
      output_scale: the number that normalises targets.
    """

    params: Params
    moments: Any
    silent_M: jax.Array
    input_scale: jax.Array
    output_scale: jax.Array


def adam(option: Adam) -> optax.GradientTransformation:
    """Adam without the learning rate."""
    return optax.scale_by_adam(option.b1, option.b2, option.epsilon)


def init(
    option: Autoencoder, optimizer: Adam, widths: tuple[int, int], measured: tuple[Any, Any], key: jax.Array
) -> AutoencoderState:
    """The state before the first update; to be traced.

    Directions are drawn uniformly from the sphere. An autoencoder's encoder is the transpose of its decoder, which
    leaves few dead features (Gao et al. 2024, section 2.4); a transcoder's is drawn by itself, and its biases begin
    such that the median of inputs gives 0. The decoder bias is the geometric median of targets (Bricken et al. 2023).

    Args:
      option: the autoencoder.
      optimizer: Adam.
      widths: D and O.
      measured: the results of `measure` of the inputs and of the targets.
      key: draws the directions.
    """
    (input_scale, median_D), (output_scale, median_O) = measured
    decoder_key, encoder_key = jax.random.split(key)
    decoder = _directions(decoder_key, option.width, widths[1])
    encoder = _directions(encoder_key, option.width, widths[0]).T if option.is_transcoder else decoder.T
    params = {"encoder": encoder, "decoder": decoder, "decoder_bias": median_O * output_scale}
    own = option.architecture.own_parameters(option.width)
    if option.is_transcoder:
        shift_M = (median_D * input_scale) @ encoder
        own = {name: x - shift_M if name in _BIASES else x for name, x in own.items()}
    params |= own
    silent_M = jnp.zeros(option.width, jnp.int32)
    return AutoencoderState(params, adam(optimizer).init(params), silent_M, input_scale, output_scale)


def _directions(key: jax.Array, count: int, width: int) -> jax.Array:
    x = jax.random.normal(key, (count, width), jnp.float32)
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def measure(block: Block, site: Any, normalize: bool) -> tuple[jax.Array, jax.Array]:
    """The number that normalises activations, and their geometric median before that; to be traced.

    The mean square of an entry's distance from the median becomes 1: activations whose mean is far from 0 would
    otherwise have almost no spread. The median minimises the sum of distances from the first `MEDIAN_TOKENS` tokens
    (Weiszfeld's iteration).
    """
    x_KRD, weights_KR = block.activations[site].astype(jnp.float32), block.weights_KR
    x_RD, weights_R = x_KRD[0, :MEDIAN_TOKENS], weights_KR[0, :MEDIAN_TOKENS]

    def closer(_: int, median_D: jax.Array) -> jax.Array:
        pull_R = weights_R / jnp.maximum(jnp.linalg.norm(x_RD - median_D, axis=1), 1e-6)
        return pull_R @ x_RD / jnp.maximum(jnp.sum(pull_R), 1e-30)

    start_D = weights_R @ x_RD / jnp.maximum(jnp.sum(weights_R), 1.0)
    median_D = jax.lax.fori_loop(0, MEDIAN_STEPS, closer, start_D)
    squares = jnp.sum(jnp.mean(jnp.square(x_KRD - median_D), axis=-1) * weights_KR)
    scale = jnp.sqrt(jnp.maximum(jnp.sum(weights_KR), 1.0) / jnp.maximum(squares, 1e-30)) if normalize else 1.0
    return jnp.float32(scale), median_D


def placements(states: Any, layout: MeshLayout) -> Any:
    """A place for every array of a tree of states: features are split as the feed-forward width, widths as `embed`."""

    def placement(path: Any, x: Any) -> NamedSharding:
        name = next((str(k.key) for k in reversed(path) if isinstance(k, jax.tree_util.DictKey)), "")
        axes = {"encoder": ("embed", "ffn"), "decoder": ("ffn", "embed"), "decoder_bias": ("embed",)}.get(name)
        if axes is None or len(axes) != x.ndim:
            axes = ("ffn",) if x.ndim == 1 else ()
        split = layout.parameter_axis_shardings(x.shape, axes)
        return NamedSharding(layout.mesh, PartitionSpec(*(each.mesh_axes or None for each in split)))

    return jax.tree_util.tree_map_with_path(placement, states)


def folded(option: Autoencoder, state: AutoencoderState) -> Params:
    """The parameters for activations as the model makes them, with the normalisation in them; to be traced or not.

    With input scale s and output scale t the features of x are those of s x: the encoder is multiplied by s; decoder
    and its bias are divided by t. An autoencoder has s = t, so that the bias that it subtracts is divided by s too.
    """
    s, t, params = state.input_scale, state.output_scale, state.params
    return params | {
        "encoder": params["encoder"] * s,
        "decoder": params["decoder"] / t,
        "decoder_bias": params["decoder_bias"] / t,
    }


def centred(option: Autoencoder, params: Params, x_BD: jax.Array) -> jax.Array:
    """The input of the encoder: less the decoder bias, for an autoencoder."""
    return x_BD if option.is_transcoder else x_BD - params["decoder_bias"]


def state_bytes(states: dict[str, AutoencoderState]) -> int:
    """The bytes of all arrays."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(states))
