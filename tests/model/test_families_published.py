"""config.json files of published models as their first uploads had them, and what no family passes over in silence."""

import math

import jax
import numpy as np
import pytest

from model.embedding import Untied
from model.errors import UserError
from model.families import config_of
from model.families.weights import Weight, by_name, tensors
from model.masks import Chunked, Everything, SlidingWindow
from model.positions import Learned, NoPositions
from model.residual import Parallel
from model.rotary import Rotary
from model.rotary_scaling import LongRoPE
from model.transformer import abstract_params
from tests.parity import grok, ours

# Keys that every one of them has and that change no number are left out.
PHI_3_MINI_128K = {
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": 48 * [1.1], "short_factor": 48 * [1.05], "type": "longrope"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
PHI_4_MINI = PHI_3_MINI_128K | {
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
GRANITE_2B = {
    "model_type": "granite",
    "attention_bias": False,
    "attention_dropout": 0.1,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "logits_scaling": 8.0,
    "max_position_embeddings": 4096,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 49155,
}
SMOLLM3_3B = {
    "model_type": "smollm3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "layer_types": 36 * ["full_attention"],
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "no_rope_layers": 9 * [1, 1, 1, 0],
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
STARCODER2_3B = {
    "model_type": "starcoder2",
    "activation_function": "gelu",
    "attention_dropout": 0.1,
    "attention_softmax_in_fp32": True,
    "embedding_dropout": 0.1,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "num_attention_heads": 24,
    "num_hidden_layers": 30,
    "num_key_value_heads": 2,
    "residual_dropout": 0.1,
    "rope_theta": 999999.4420358813,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "sliding_window": 4096,
    "use_bias": True,
    "vocab_size": 49152,
}
GLM_4_9B = {
    "model_type": "glm4",
    "attention_bias": True,
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 151552,
}
PYTHIA_70M = {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "hidden_act": "gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
GPT_J_6B = {
    "model_type": "gptj",
    "architectures": ["GPTJForCausalLM"],
    "activation_function": "gelu_new",
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "gradient_checkpointing": False,
    "layer_norm_epsilon": 1e-05,
    "n_embd": 4096,
    "n_head": 16,
    "n_inner": None,
    "n_layer": 28,
    "n_positions": 2048,
    "resid_pdrop": 0.0,
    "rotary": True,
    "rotary_dim": 64,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
    "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer",
    "vocab_size": 50400,
}
BLOOM_176B = {
    "model_type": "bloom",
    "architectures": ["BloomForCausalLM"],
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "hidden_dropout": 0.0,
    "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True,
    "n_embed": 14336,
    "n_layer": 70,
    "num_attention_heads": 112,
    "pretraining_tp": 4,
    "slow_but_exact": False,
    "unk_token_id": 0,
    "vocab_size": 250880,
}
FALCON_40B = {
    "model_type": "falcon",
    "architectures": ["FalconForCausalLM"],
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "bias": False,
    "hidden_dropout": 0.0,
    "hidden_size": 8192,
    "layer_norm_epsilon": 1e-05,
    "multi_query": True,
    "new_decoder_architecture": True,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
    "parallel_attn": True,
    "vocab_size": 65024,
}
OPT_125M = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "prefix": "</s>",
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
COMMAND_R7B = {
    "model_type": "cohere2",
    "architectures": ["Cohere2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "cache_implementation": "hybrid",
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "layer_norm_eps": 1e-05,
    "layer_switch": 4,
    "logit_scale": 0.25,
    "max_position_embeddings": 132096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rope_scaling": None,
    "rope_theta": 50000,
    "rotary_pct": 1.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": False,
    "vocab_size": 256000,
}
SCOUT = {
    "model_type": "llama4_text",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "attention_dropout": 0.0,
    "attn_scale": 0.1,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "for_llm_compressor": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "max_position_embeddings": 10485760,
    "no_rope_layers": [],
    "num_attention_heads": 40,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "num_local_experts": 16,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 1.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "use_qk_norm": True,
    "vocab_size": 202048,
}
FALCON_7B = FALCON_40B | {
    "hidden_size": 4544,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "num_kv_heads": 71,
}
GROK_1 = {"model_type": "grok-1", "architectures": ["Grok1ModelForCausalLM"]}


QKV = ("query", "key", "value")


def size_of(config):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))


@pytest.mark.parametrize(
    ("published", "size"),
    [
        (PHI_3_MINI_128K, 3_821_079_552),
        (PHI_4_MINI, 3_836_021_760),
        (GRANITE_2B, 2_533_531_648),
        (SMOLLM3_3B, 3_075_098_624),
        (STARCODER2_3B, 3_030_371_328),
        (GLM_4_9B, 9_400_279_040),
        (FALCON_7B, 6_921_720_704),
        (PYTHIA_70M, 70_426_624),
        (GPT_J_6B, 6_050_882_784),
        (BLOOM_176B, 176_247_271_424),
        (OPT_125M, 125_239_296),
        (COMMAND_R7B, 8_028_033_024),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_as_many_parameters_as_the_model_card_says(published, size):
    assert size_of(config_of(published)) == size


@pytest.mark.parametrize(
    ("published", "billions"), [(FALCON_40B, 41.3), (SCOUT, 107.8), (GROK_1, 315.7)], ids=["40b", "scout", "grok"]
)
def test_about_as_many_parameters_as_the_model_card_says(published, billions):
    assert round(size_of(config_of(published)) / 1e9, 1) == billions


def test_phi_3_mini_128k():
    config = config_of(PHI_3_MINI_128K)
    assert isinstance(config.position.scaling, LongRoPE)
    assert (config.position.scaling.original_length, config.position.scaling.factor) == (4096, 32)
    assert config.attention.pattern == SlidingWindow(size=262144)  # longer than any sequence


def test_pythia_gptj_and_opt():
    pythia, gptj, opt = map(config_of, (PYTHIA_70M, GPT_J_6B, OPT_125M))
    assert (pythia.position, pythia.residual) == (Rotary(fraction=0.25), Parallel(shared_norm=False))
    assert (gptj.position, gptj.residual) == (Rotary(fraction=0.25, interleaved=True), Parallel())
    assert gptj.unembedding == Untied(bias=True)
    assert (opt.position, opt.dropout.residual) == (Learned(offset=2), 0.1)


def test_command_r7b_and_scout_have_global_layers_without_positions():
    command, scout = config_of(COMMAND_R7B), config_of(SCOUT)
    for number, layer in enumerate(command.layers):
        everywhere = number % 4 == 3
        assert isinstance(layer.position, NoPositions if everywhere else Rotary)
        assert layer.attention.pattern == (Everything() if everywhere else SlidingWindow(size=4096))
    for number, layer in enumerate(scout.layers):
        everywhere = number % 4 == 3
        assert layer.attention.pattern == (Everything() if everywhere else Chunked(size=8192))
        assert (layer.attention.temperature is not None) == everywhere
        assert (layer.attention.qk_norm is None) == everywhere


def test_grok_is_what_its_release_says():
    config = config_of(GROK_1)
    assert (config.num_layers, config.width, config.attention.head_width(config.width)) == (64, 6144, 128)
    assert config.attention.scale == pytest.approx(128**-0.5)
    assert config.multipliers.embedding == pytest.approx(6144**0.5)
    assert config.multipliers.logits == pytest.approx(3**-0.5)


@pytest.mark.parametrize("shape", ["two of four experts", "one key head, wide heads, capped"])
def test_grok_against_a_loop_of_its_equations(shape, tmp_path):
    model = grok.make("grok", shape)
    grok.save(model, tmp_path)
    _, config, params = ours.load(tmp_path)
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (2, 13))
    expected = grok.logits(model, ids)
    got = ours.logits_of(config, params, *ours.whole(ids))
    assert np.abs(got - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    ("published", "changes", "message"),
    [
        (OPT_125M, {"word_embed_proj_dim": 512}, "word_embed_proj_dim=512"),
        (OPT_125M, {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
        (OPT_125M, {"layerdrop": 0.1}, "layerdrop=0.1"),
        (PHI_3_MINI_128K, {"rope_scaling": {"type": "yarn", "factor": 32.0}}, "make its type 'longrope'"),
        (PHI_3_MINI_128K, {"rope_scaling": {"type": "longrope"}}, "no value for rope_scaling.short_factor"),
        (PYTHIA_70M, {"rope_theta": 500.0}, "rope_theta=500.0"),
        (PHI_4_MINI, {"lm_head_bias": True}, "lm_head_bias=True"),
        (SMOLLM3_3B, {"layer_types": 36 * ["sliding_attention"]}, "a sliding layer needs use_sliding_window"),
        (STARCODER2_3B, {"norm_type": "rms_norm"}, "norm_type='rms_norm'"),
        (STARCODER2_3B, {"layer_norm_epsilon": 0.1}, "layer_norm_epsilon=0.1"),
        (PYTHIA_70M, {"hidden_dropout_prob": 0.1}, "hidden_dropout_prob=0.1"),
        (GPT_J_6B, {"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        (GPT_J_6B, {"rotary_dim": None}, "no value for rotary_dim"),
        (BLOOM_176B, {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        (BLOOM_176B, {"n_inner": 100}, "n_inner=100"),
        (FALCON_40B, {"parallel_attn": False}, "parallel_attn=False"),
        (FALCON_40B, {"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn=3"),
        (
            FALCON_40B,
            {"new_decoder_architecture": False, "multi_query": False},
            "num_kv_heads=8 cannot be mapped: expected 128",
        ),
        (COMMAND_R7B, {"use_qk_norm": True}, "use_qk_norm=True"),
        (COMMAND_R7B, {"layer_switch": 2}, "layer_switch=2"),
        (COMMAND_R7B, {"sliding_window": None}, "layers with windows need their size"),
        (SCOUT, {"layer_types": 48 * ["sliding_attention"]}, "layer_types="),
        (GROK_1, {"attention_bias": True}, "attention_bias=True"),
    ],
)
def test_what_these_families_do_not_have_is_refused(published, changes, message):
    with pytest.raises(UserError, match=message):
        config_of(published | changes)


def test_queries_of_a_key_head_lie_together_in_falcons_fused_projection():
    config = config_of(FALCON_40B | {"hidden_size": 8, "num_attention_heads": 4, "num_kv_heads": 2, "vocab_size": 9})
    rows = (
        Weight("blocks.attention.query", "qkv.{layer}", "(n +h) d -> d n h"),
        Weight("blocks.attention.key", "qkv.{layer}", "(k +h) d -> d k h"),
        Weight("blocks.attention.value", "qkv.{layer}", "(k +h) d -> d k h"),
    )
    others = [name for name in by_name(abstract_params(config)) if name.rpartition(".")[2] not in QKV]
    there = (Weight(name, name + ("{layer}" if name.startswith("blocks") else "")) for name in others)
    tensor = tensors((*rows, *there), config)["qkv.0"]
    assert (tensor.shape, tensor.repeats) == ((16, 8), 2)
    x = np.repeat(np.arange(8), 2)[:, None] * np.ones(8)  # each head's rows hold its place in the tensor
    query_DNH, key_DKH, value_DKH = tensor.taken_apart(x)
    assert [list(part[0, :, 0]) for part in (query_DNH, key_DKH, value_DKH)] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    np.testing.assert_array_equal(tensor.put_together([query_DNH, key_DKH, value_DKH]), x)
