import pytest

from model.families import model_config
from model.families.config_json import ConfigJson
from model.families.rotary import context_length, rotary
from model.positions.rotary import Rotary


def test_old_and_new_rotary_keys_mean_the_same():
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    common = {  # meta-llama/Llama-3.1-8B
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    }
    old = model_config(common | {"rope_theta": 500000.0, "rope_scaling": scaling})
    new = model_config(common | {"rope_parameters": scaling | {"rope_theta": 500000.0}})
    assert old == new
    assert old.position.theta == 5e5
    assert old.position.scaling.original_length == 8192


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 4.0}}, 8192),
        ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 4096),
        ({}, 512),
    ],
)
def test_dynamic_scaling_lengthens_the_context(values, length):
    assert context_length(ConfigJson(values), 512) == length


def test_a_kind_of_layer_may_have_parameters_of_its_own():
    values = {
        "max_position_embeddings": 64,
        "rope_parameters": {"local": {"rope_theta": 5.0}, "global": {"rope_theta": 7.0, "partial_rotary_factor": 0.5}},
    }
    assert rotary(ConfigJson(values), layer_type="local") == Rotary(theta=5.0)
    assert rotary(ConfigJson(values), layer_type="global") == Rotary(theta=7.0, fraction=0.5)
