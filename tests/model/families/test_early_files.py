"""config.json files from before today's names."""

import pytest

from model.errors import UserError
from model.families import model_config, published_model
from model.positions.alibi import ALiBi
from model.residual import Parallel, PreNorm
from tests.model.families.published_configs import FALCON_7B, FALCON_40B, GPT_2_MEDIUM

REFINED_WEB_40B = {
    "model_type": "RefinedWeb",
    "architectures": ["RWForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_RW.RWConfig", "AutoModelForCausalLM": "modelling_RW.RWForCausalLM"},
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "bias": False,
    "hidden_dropout": 0.0,
    "hidden_size": 8192,
    "layer_norm_epsilon": 1e-05,
    "n_head": 128,
    "n_head_kv": 8,
    "n_layer": 60,
    "parallel_attn": True,
    "vocab_size": 65024,
}
REFINED_WEB_7B = {key: value for key, value in REFINED_WEB_40B.items() if key != "n_head_kv"}
REFINED_WEB_7B |= {"model_type": "RefinedWebModel", "multi_query": True}
REFINED_WEB_7B |= {"hidden_size": 4544, "n_head": 71, "n_layer": 32}


def test_falcons_first_files_describe_the_models_of_today():
    assert model_config(REFINED_WEB_40B) == model_config(FALCON_40B)
    assert model_config(REFINED_WEB_7B) == model_config(FALCON_7B)


def test_models_of_refined_web_alone():
    """Falcon-RW: ALiBi, biases, every query head with its own key head, sublayers one after the other."""
    changes = {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False, "n_head": 32}
    config = model_config(REFINED_WEB_7B | changes | {"hidden_size": 2048, "n_layer": 24, "vocab_size": 50304})
    assert isinstance(config.position, ALiBi)
    assert (config.mixer.kv_heads, config.mixer.qkv_bias, config.residual) == (32, True, PreNorm())
    assert model_config(REFINED_WEB_7B).residual == Parallel()


def test_a_file_without_model_type_is_known_by_its_class():
    plain = {key: value for key, value in GPT_2_MEDIUM.items() if key != "model_type"}
    assert model_config(plain) == model_config(GPT_2_MEDIUM)
    with pytest.raises(
        UserError, match=r'no model_type, and no family reads architectures=\["BertModel"\]\nknown: Baichuan'
    ):
        model_config(plain | {"architectures": ["BertModel"]})
    with pytest.raises(UserError, match="neither model_type nor architectures, .*; add its model_type"):
        published_model({})
    with pytest.raises(UserError, match="PhiForCausalLM is the class of phi and phi_msft; add the model_type"):
        published_model({"architectures": ["PhiForCausalLM"]})


def test_llama_of_march_2023():
    values = {
        "architectures": ["LLaMAForCausalLM"],
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1376,
        "max_sequence_length": 1024,
        "num_attention_heads": 8,
        "num_hidden_layers": 8,
        "rms_norm_eps": 1e-06,
        "vocab_size": 32100,
    }
    assert model_config(values).context_length == 1024


def test_the_form_of_the_package_mamba_ssm_is_named():
    values = {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}, "rms_norm": True}
    with pytest.raises(UserError, match=r"of the package mamba_ssm \(ssm_cfg\), .* whose model_type is mamba2"):
        model_config(values)
