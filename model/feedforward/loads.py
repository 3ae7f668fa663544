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

Measurements = dict[str, dict[str, jax.Array]]


def load_statistics(measurements: Measurements) -> dict[str, jax.Array]:
    """Returns scalars for the log; none for a model without experts.

    Returns:
      expert_load_entropy: the entropy of the load's shares, 1 when all experts have the same load; mean over layers.
      expert_load_max: the largest load of an expert, in multiples of the mean load; maximum over layers.
      router_entropy: the entropy of a token's scores, in nats; mean over tokens and layers.
      experts_dropped: the share of (token, expert) pairs without a slot; mean over layers with a capacity.
    """
    values: dict[str, list[jax.Array]] = {"entropy": [], "max": [], "router": [], "dropped": []}
    for layers in measurements.values():
        if "load" not in layers:
            continue
        tokens_L, load_LE = jnp.maximum(layers["tokens"], 1e-9), layers["load"]
        pairs_L = jnp.maximum(jnp.sum(load_LE, axis=1), 1e-9)
        share_LE, count = load_LE / pairs_L[:, None], load_LE.shape[1]
        values["entropy"].append(-jnp.sum(jax.scipy.special.xlogy(share_LE, share_LE), axis=1) / math.log(count))
        values["max"].append(jnp.max(share_LE, axis=1) * count)
        values["router"].append(layers["entropy"] / tokens_L)
        if "dropped" in layers:
            values["dropped"].append(layers["dropped"] / pairs_L)
    if not values["max"]:
        return {}
    result = {
        "expert_load_entropy": jnp.mean(jnp.concatenate(values["entropy"])),
        "expert_load_max": jnp.max(jnp.concatenate(values["max"])),
        "router_entropy": jnp.mean(jnp.concatenate(values["router"])),
    }
    return result | ({"experts_dropped": jnp.mean(jnp.concatenate(values["dropped"]))} if values["dropped"] else {})


def update_load_biases(config: ModelConfig, state: Any, measurements: Measurements) -> Any:
    """Returns the tree of `init`, or its part that is not trained, with each load bias moved against its load."""
    groups = group_layers(config.layers)
    single_block = len(groups) == 1 and len(groups[0].pattern) == 1
    blocks = [
        (("blocks",) if single_block else ("blocks", name), layer, name)
        for group in groups
        for name, layer in zip(group.stack_names, group.pattern, strict=True)
    ]
    if config.multi_token is not None:
        blocks.append((("multi_token", "block"), config.layers[-1], "multi_token"))
    for path, layer, name in blocks:
        if isinstance(layer.ffn, Experts) and layer.ffn.load_bias is not None:
            load_LE = measurements[name]["load"]
            step_LE = layer.ffn.load_bias.rate * jnp.sign(jnp.mean(load_LE, axis=1, keepdims=True) - load_LE)
            state = _add_at(state, (*path, "ffn", "load_bias"), step_LE)
    return state


def _add_at(tree: Any, path: tuple[str, ...], step: jax.Array) -> Any:
    """Returns the tree of nested dicts with a step added to the array at a path."""
    if not path:
        return tree + step
    return {**tree, path[0]: _add_at(tree[path[0]], path[1:], step)}
