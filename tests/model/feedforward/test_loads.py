import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.feedforward.balance import LoadBias
from model.feedforward.experts import Experts
from model.feedforward.loads import load_statistics, update_load_biases
from model.feedforward.mlp import Gated
from model.layers import Except

OPTION = Experts(num_experts=4, top_k=2, expert=Gated(width=8), load_bias=LoadBias(rate=0.25))


def measured(loads, tokens, entropy, dropped=None):
    found = {"load": jnp.asarray(loads, jnp.float32), "tokens": jnp.asarray(tokens, jnp.float32)}
    found["entropy"] = jnp.asarray(entropy, jnp.float32)
    return found | ({} if dropped is None else {"dropped": jnp.asarray(dropped, jnp.float32)})


def test_by_hand():
    """One stack has two layers of four experts; the other has one layer of two experts, which drops tokens."""
    loads = {
        "0": measured([[4, 4, 4, 4], [8, 8, 0, 0]], [8, 8], [8 * 0.5, 8 * 0.25]),
        "2": measured([[2, 6]], [8], [8 * 0.75], dropped=[2]),
    }
    values = {name: float(value) for name, value in load_statistics(loads).items()}
    assert values == pytest.approx(
        {
            "expert_load_entropy": (1 + 0.5 - (0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))) / 3,
            "expert_load_max": 2.0,
            "router_entropy": (0.5 + 0.25 + 0.75) / 3,
            "experts_dropped": 0.25,
        },
        rel=1e-5,
    )
    assert "experts_dropped" not in load_statistics({"0": loads["0"]})
    assert load_statistics({}) == {}


def test_of_a_batch_of_padding_all_is_finite():
    values = load_statistics({"": measured(np.zeros((1, 4)), [0], [0], [0])})
    assert np.isfinite([float(value) for value in values.values()]).all()


def test_biases_move_against_the_load(small, drawn):
    config = small(num_layers=2, ffn=OPTION)
    old = drawn(config)
    loads = {"0": measured([[4, 1, 2, 5], [3, 3, 3, 3]], [6, 6], [0, 0])}
    moved = update_load_biases(config, old, loads)
    expected = np.asarray(old["blocks"]["ffn"]["load_bias"]) + 0.25 * np.array([[-1, 1, 1, -1], [0, 0, 0, 0]])
    np.testing.assert_allclose(moved["blocks"]["ffn"]["load_bias"], expected, rtol=1e-6)
    assert moved["blocks"]["ffn"]["router"] is old["blocks"]["ffn"]["router"]
    assert moved["blocks"]["mixer"] is old["blocks"]["mixer"]
    untrained = {"blocks": {"ffn": {"load_bias": old["blocks"]["ffn"]["load_bias"]}}}
    alone = update_load_biases(config, untrained, loads)
    assert jax.tree.structure(alone) == jax.tree.structure(untrained)
    np.testing.assert_array_equal(alone["blocks"]["ffn"]["load_bias"], moved["blocks"]["ffn"]["load_bias"])


def test_each_stack_has_its_own_and_others_are_left_alone(small, drawn):
    config = small(num_layers=3, ffn=OPTION, exceptions=(Except(layers="1", ffn=Gated(width=24)),))
    old = drawn(config)
    loads = {"0": measured([[9, 1, 1, 1]], [6], [0]), "2": measured([[1, 1, 1, 9]], [6], [0])}
    moved = update_load_biases(config, old, loads)["blocks"]
    for name, towards in {"0": [-1, 1, 1, 1], "2": [1, 1, 1, -1]}.items():
        expected = np.asarray(old["blocks"][name]["ffn"]["load_bias"])[0] + 0.25 * np.array(towards)
        np.testing.assert_allclose(moved[name]["ffn"]["load_bias"][0], expected, rtol=1e-6)
    assert moved["1"] is old["blocks"]["1"]
