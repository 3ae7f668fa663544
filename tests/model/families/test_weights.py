import numpy as np

from model.families import model_config
from model.families.weights import Weight, flatten, tensors
from model.transformer import abstract_params
from tests.model.families.published_configs import (
    FALCON_40B,
    QKV,
)


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
