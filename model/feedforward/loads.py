"""How busy experts were, from what was measured over a batch; and the biases that this moves.

See model/feedforward/balance.py, where it is measured.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.feedforward.experts import Experts
from model.layers import Layer, by_stack, from_stacks, grouped

Measured = dict[str, dict[str, jax.Array]]


def utilisation(measured: Measured) -> dict[str, jax.Array]:
    """Scalars for the log; none for a model without experts.

    Returns:
      expert_load_entropy: of the shares of the load, 1 when all experts are equally busy; the mean over layers.
      expert_load_max: the load of the busiest expert in multiples of the mean; the largest of all layers.
      router_entropy: of a token's scores, in nats; the mean over tokens and layers.
      experts_dropped: the share of (token, expert) pairs without a slot; the mean over layers with a capacity.
    """
    found: dict[str, list[jax.Array]] = {"entropy": [], "max": [], "router": [], "dropped": []}
    for layers in measured.values():
        if "load" not in layers:
            continue
        tokens_L, load_LE = jnp.maximum(layers["tokens"], 1e-9), layers["load"]
        pairs_L = jnp.maximum(jnp.sum(load_LE, axis=1), 1e-9)
        share_LE, count = load_LE / pairs_L[:, None], load_LE.shape[1]
        found["entropy"].append(-jnp.sum(jax.scipy.special.xlogy(share_LE, share_LE), axis=1) / math.log(count))
        found["max"].append(jnp.max(share_LE, axis=1) * count)
        found["router"].append(layers["entropy"] / tokens_L)
        if "dropped" in layers:
            found["dropped"].append(layers["dropped"] / pairs_L)
    if not found["max"]:
        return {}
    result = {
        "expert_load_entropy": jnp.mean(jnp.concatenate(found["entropy"])),
        "expert_load_max": jnp.max(jnp.concatenate(found["max"])),
        "router_entropy": jnp.mean(jnp.concatenate(found["router"])),
    }
    return result | ({"experts_dropped": jnp.mean(jnp.concatenate(found["dropped"]))} if found["dropped"] else {})


def move_load_biases(config: ModelConfig, old: Any, new: Any, measured: Measured) -> Any:
    """The new parameters with each load bias that of the old ones, moved against the load that was measured."""
    groups = grouped(config.layers)
    before, after = (by_stack(params["blocks"], groups) for params in (old, new))
    after = dict(after)
    for group in groups:
        for name, layer in zip(group.names, group.pattern, strict=True):
            after[name] = _moved(layer, before[name], after[name], measured.get(name, {}))
    moved = {**new, "blocks": from_stacks(after)}
    if config.multi_token is not None:
        modules, layer = new["multi_token"], config.layers[-1]
        block = _moved(layer, old["multi_token"]["block"], modules["block"], measured.get("multi_token", {}))
        moved["multi_token"] = {**modules, "block": block}
    return moved


def _moved(layer: Layer, old: Any, new: Any, measured: dict[str, jax.Array]) -> Any:
    """The new parameters of a stack of blocks with the load bias of the old ones, moved."""
    if not isinstance(layer.ffn, Experts) or layer.ffn.load_bias is None:
        return new
    load_LE = measured["load"]
    towards_LE = jnp.sign(jnp.mean(load_LE, axis=1, keepdims=True) - load_LE)
    bias_LE = old["ffn"]["load_bias"] + layer.ffn.load_bias.rate * towards_LE
    return {**new, "ffn": {**new["ffn"], "load_bias": bias_LE}}
