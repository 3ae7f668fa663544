"""The shares of a logit: of the embedding and each sublayer, of each head, of each neuron (direct logit attribution).

The stream before the last norm is the sum of the embedding and of the outputs of all sublayers; readout.py makes a
logit linear in it. The output of attention is again a sum over heads, y_n W_n, and that of a feed-forward a sum over
its neurons, h_f w_f, each with a bias; a norm on the output is linearised as the last norm is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.feedforward.mlp import MLP, Gated
from model.norms import normalize
from model.taps.request import Tap
from model.transformer import logits
from train.inspection.stream.readout import check_additive, readout, shares
from train.inspection.subject import Subject, layers_with
from train.inspection.weights import of_layer

# The sublayer whose output a tap is mapped to, and its weight and bias.
_WRITERS = {
    "mixer_heads": ("mixer", "output", "output_bias"),
    "cross_heads": ("cross", "output", "output_bias"),
    "ffn_hidden": ("ffn", "down", "down_bias"),
}


class Shares(NamedTuple):
    """The shares of the parts of a model in one logit, or in the difference of two, before a soft-cap.

    Attributes:
      logits: the model's own logits of the token and of the other one, after the soft-cap.
      bias: the share of biases behind the stream.
      parts: the share of the embedding and of each sublayer, by its name ("embedding", "mixer 0", "ffn 0", ...), in
        order. They sum to the logit less the bias.
      heads: by layer, the shares of heads (N,), and that of the biases of the mixer: they sum to the mixer's.
      cross_heads: the same of cross-attention.
      neurons: by layer, the shares of neurons (F,), and that of the biases of the feed-forward.
    """

    logits: tuple[float, ...]
    bias: float
    parts: dict[str, float]
    heads: dict[int, tuple[np.ndarray, float]]
    cross_heads: dict[int, tuple[np.ndarray, float]]
    neurons: dict[int, tuple[np.ndarray, float]]

    @property
    def total(self) -> float:
        """The logit, or the difference, before a soft-cap."""
        return self.bias + sum(self.parts.values())


def attribute(subject: Subject, ids: np.ndarray, position: int, target: int, against: int | None = None) -> Shares:
    """The shares in the logit of a token at a position of a text.

    Args:
      subject: the model.
      ids: the text, int32 (T,).
      position: the position whose logit it is.
      target: the token of the logit.
      against: a token whose logit is taken off it, or None.

    Raises:
      UserError: for a model whose stream is no sum (`check_additive`).
    """
    config = subject.config
    check_additive(config)
    having = {
        name: [n for n in layers_with(config, name) if _output_of_heads(subject, n, _WRITERS[name][0]) is not None]
        for name in ("mixer_heads", "cross_heads")
    }
    having["ffn_hidden"] = [n for n, layer in enumerate(config.layers) if isinstance(layer.ffn, MLP | Gated)]
    groups = {name: _alike(config, name, layers) for name, layers in having.items()}

    def found(params: Any, ids_T: jax.Array, position: jax.Array, target: jax.Array, against: jax.Array) -> Any:
        parts_PD, names, whole_D, result = _parts(subject, params, ids_T, position)
        to_logit = readout(config, params, target, None if no_other else against)
        own_logits_V = logits(config, params, result[:, position][:, None])[0, 0]
        own = own_logits_V[target][None] if no_other else own_logits_V[jnp.stack([target, against])]
        share = lambda parts: shares(config, params, to_logit, parts, whole_D)  # noqa: E731
        inner: dict[str, dict[int, Any]] = {}
        for name, layer_groups in groups.items():
            inner[name] = {}
            for layers in layer_groups:
                taps = subject.stream(params, ids_T[None], (Tap(name, layers=layers),)).taps
                for number, x in zip(layers, taps[name][:, 0], strict=True):
                    terms, rest = _terms(config, of_layer(config, params, number), name, x[position])
                    inner[name][number] = (share(terms), share(rest))
        return own, to_logit.bias, dict(zip(names, share(parts_PD), strict=True)), inner

    no_other = against is None
    scalars = (np.int32(position), np.int32(target), np.int32(0 if against is None else against))
    own, bias, parts, inner = subject.compiled(found)(ids.astype(np.int32), *scalars)
    order = [name for name in _names(config) if name in parts]
    split = {name: {n: (x, float(rest)) for n, (x, rest) in layers.items()} for name, layers in inner.items()}
    return Shares(
        tuple(map(float, own)),
        float(bias),
        {name: float(parts[name]) for name in order},
        split["mixer_heads"],
        split["cross_heads"],
        split["ffn_hidden"],
    )


def _alike(config: ModelConfig, name: str, layers: list[int]) -> list[tuple[int, ...]]:
    known = layers_with(config, name) if layers else {}
    return [tuple(n for n in layers if known[n] == shape) for shape in dict.fromkeys(known[n] for n in layers)]


def _output_of_heads(subject: Subject, number: int, name: str) -> Any:
    """The output projection (N, H, D) of the heads of a sublayer; None where it is stored in another form."""
    layer = jax.eval_shape(lambda params: of_layer(subject.config, params, number), subject.params)
    output = layer.get(name, {}).get("output")
    return output if getattr(output, "ndim", 0) == 3 else None


def _names(config: ModelConfig) -> list[str]:
    names = ["embedding"]
    for number, layer in enumerate(config.layers):
        names += [f"{sublayer} {number}" for sublayer in layer.sublayers]
        names += [f"per-layer embedding {number}"] * (config.per_layer_embedding is not None)
    return names


def _parts(
    subject: Subject, params: Any, ids_T: jax.Array, position: jax.Array
) -> tuple[jax.Array, list[str], jax.Array, jax.Array]:
    """The parts of the stream at a position (P, D), their names, their sum (D,), the stream after the last norm."""
    config = subject.config
    wanted = [name for name in ("mixer", "cross", "ffn") if any(name in layer.sublayers for layer in config.layers)]
    keep = [Tap("embedding"), Tap("block_output"), *(Tap(f"{name}_output") for name in wanted)]
    output = subject.stream(params, ids_T[None], keep)
    at = {name: jnp.asarray(x, jnp.float32)[..., 0, position, :] for name, x in output.taps.items()}
    parts, names = [at["embedding"]], ["embedding"]
    rows = dict.fromkeys(wanted, 0)
    for number, layer in enumerate(config.layers):
        before = at["embedding"] if number == 0 else at["block_output"][number - 1]
        written = jnp.zeros_like(before)
        for name in layer.sublayers:
            parts.append(at[f"{name}_output"][rows[name]])
            names.append(f"{name} {number}")
            written, rows[name] = written + parts[-1], rows[name] + 1
        if config.per_layer_embedding is not None:
            parts.append(at["block_output"][number] - before - written)
            names.append(f"per-layer embedding {number}")
    return jnp.stack(parts), names, at["block_output"][-1], output.stream_BTD


def _terms(config: ModelConfig, layer: Any, tap: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The terms of a sublayer's output, as they are added to the stream, and the rest: its biases.

    Args:
      config: the model.
      layer: the parameters of the layer.
      tap: mixer_heads, cross_heads or ffn_hidden.
      x: the tap at the position, (N, H) or (F,).
    """
    name, weight, bias = _WRITERS[tap]
    w = layer[name][weight].astype(jnp.float32)
    values = x.astype(jnp.float32)
    terms = jnp.einsum("NH,NHD->ND", values, w) if w.ndim == 3 else values[:, None] * w
    given = layer[name].get(bias)
    rest = jnp.zeros(w.shape[-1]) if given is None else given.astype(jnp.float32)
    write, constant = written(config, layer.get("residual", {}), name, jnp.sum(terms, axis=0) + rest)
    return write(terms), write(rest) + constant


def written(
    config: ModelConfig, residual: Any, name: str, whole_D: jax.Array
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """The linear map from parts of a sublayer's output to what is added to the stream, and a constant beside it."""
    norm, gain = residual.get(f"{name}_output_norm"), residual.get(f"{name}_gain")

    def scaled(x: jax.Array) -> jax.Array:
        x = x if gain is None else x * gain.astype(jnp.float32)
        return x * config.factors.residual

    def write(x: jax.Array) -> jax.Array:
        if config.residual.normalizes_output:
            scale = None if norm is None else norm.get("scale")
            x = normalize(config.norm, "float32", 1, x, scale, divisor_of=jnp.broadcast_to(whole_D, x.shape))
        return scaled(x)

    bias = None if norm is None else norm.get("bias")
    return write, jnp.zeros_like(whole_D) if bias is None else scaled(bias.astype(jnp.float32))
