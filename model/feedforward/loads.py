"""Statistics of the experts' loads over a batch, and the update of load biases from these loads.

model/feedforward/balance.py measures the loads.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.feedforward.experts import Experts
from model.layers import group_layers

Measured = dict[str, dict[str, jax.Array]]


def utilisation(measured: Measured) -> dict[str, jax.Array]:
    """Returns scalars for the log; none for a model without experts.

    Returns:
      expert_load_entropy: the entropy of the load's shares, 1 when all experts have the same load; mean over layers.
      expert_load_max: the largest load of an expert, in multiples of the mean load; maximum over layers.
      router_entropy: the entropy of a token's scores, in nats; mean over tokens and layers.
      experts_dropped: the share of (token, expert) pairs without a slot; mean over layers with a capacity.
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


def move_load_biases(config: ModelConfig, state: Any, measured: Measured) -> Any:
    """Returns the tree of `init`, or its part that is not trained, with each load bias moved against its load."""
    groups = group_layers(config.layers)
    alone = len(groups) == 1 and len(groups[0].pattern) == 1
    blocks = [
        (("blocks",) if alone else ("blocks", name), layer, name)
        for group in groups
        for name, layer in zip(group.stack_names, group.pattern, strict=True)
    ]
    if config.multi_token is not None:
        blocks.append((("multi_token", "block"), config.layers[-1], "multi_token"))
    for path, layer, name in blocks:
        if isinstance(layer.ffn, Experts) and layer.ffn.load_bias is not None:
            load_LE = measured[name]["load"]
            step_LE = layer.ffn.load_bias.rate * jnp.sign(jnp.mean(load_LE, axis=1, keepdims=True) - load_LE)
            state = _added(state, (*path, "ffn", "load_bias"), step_LE)
    return state


def _added(tree: Any, path: tuple[str, ...], step: jax.Array) -> Any:
    """Returns the tree of nested dicts with a step added to the array at a path."""
    if not path:
        return tree + step
    return {**tree, path[0]: _added(tree[path[0]], path[1:], step)}
