import numpy as np

from model.families import family_of, model_config
from model.families.weights import Weight, tensors
from model.parameters.names import flatten
from model.transformer import abstract_params
from tests.model.families.published_configs import (
    FALCON_40B,
    QKV,
)
from tests.model.families.published_hybrids import QWEN3_NEXT_80B

SMALL_DELTA = {
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 9,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 3,
    "linear_value_head_dim": 5,
}


def test_queries_of_a_key_head_lie_together_in_falcons_fused_projection():
    config = model_config(FALCON_40B | {"hidden_size": 8, "num_attention_heads": 4, "num_kv_heads": 2, "vocab_size": 9})
    rows = (
        Weight("blocks.mixer.query", "qkv.{layer}", "(n +h) d -> d n h"),
        Weight("blocks.mixer.key", "qkv.{layer}", "(k +h) d -> d k h"),
        Weight("blocks.mixer.value", "qkv.{layer}", "(k +h) d -> d k h"),
    )
    others = [name for name in flatten(abstract_params(config)) if name.rpartition(".")[2] not in QKV]
    there = (Weight(name, name + ("{layer}" if name.startswith("blocks") else "")) for name in others)
    tensor = tensors((*rows, *there), config)["qkv.0"]
    assert (tensor.shape, tensor.sections) == ((16, 8), 2)
    x = np.repeat(np.arange(8), 2)[:, None] * np.ones(8)  # the rows of each head hold its number in the tensor
    query_DNH, key_DKH, value_DKH = tensor.split(x)
    assert [list(part[0, :, 0]) for part in (query_DNH, key_DKH, value_DKH)] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    np.testing.assert_array_equal(tensor.join([query_DNH, key_DKH, value_DKH]), x)


def test_taps_are_reversed_and_the_pieces_of_a_key_head_lie_together():
    """conv1d holds the taps of queries, keys and values, the current token last; in_proj_ba is by key head."""
    family, config = family_of(QWEN3_NEXT_80B), model_config(QWEN3_NEXT_80B | SMALL_DELTA)
    taps = family.tensors(config)["model.layers.0.linear_attn.conv1d.weight"]
    assert taps.shape == (2 * 2 * 3 + 4 * 5, 1, 4)
    x = np.arange(32)[:, None, None] * 10 + np.arange(4)  # tens: the channel; units: the tap
    query_JKH, key_JKH, value_JNP = taps.split(x)
    assert [list(part[:, 0, 0]) for part in (query_JKH, key_JKH, value_JNP)] == [
        [3, 2, 1, 0],
        [63, 62, 61, 60],
        [123, 122, 121, 120],
    ]
    np.testing.assert_array_equal(taps.join([query_JKH, key_JKH, value_JNP]), x)
    pairs = family.tensors(config)["model.layers.0.linear_attn.in_proj_ba.weight"]
    strength_DN, decay_DN = pairs.split(np.arange(8)[:, None] * np.ones(8))
    assert [list(part[0]) for part in (strength_DN, decay_DN)] == [[0, 1, 4, 5], [2, 3, 6, 7]]
