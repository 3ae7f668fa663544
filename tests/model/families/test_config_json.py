"""config.json files of published models as first uploaded, and the values in them that families must refuse."""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import Chunked, Everything, SlidingWindow
from model.errors import UserError
from model.families import model_config
from model.parameters.maker import Normal
from model.positions.absolute import Learned, NoPositions
from model.positions.rotary import Rotary
from model.positions.scaling import LongRoPE
from model.recurrent.delta import GatedDelta
from model.recurrent.state_space import StateSpace
from model.residual import Parallel, PostNorm
from model.transformer import abstract_params
from model.vocabulary.embedding import Untied
from tests.model.families.published_configs import (
    BLOOM_176B,
    COMMAND_R7B,
    FALCON_7B,
    FALCON_40B,
    GLM_4_9B,
    GPT_1,
    GPT_2_MEDIUM,
    GPT_2_XL,
    GPT_J_6B,
    GRANITE_2B,
    GROK_1,
    OPT_125M,
    OPT_350M,
    PHI_3_MINI_128K,
    PHI_4_MINI,
    PYTHIA_70M,
    SCOUT,
    SMOLLM3_3B,
    STARCODER2_3B,
)
from tests.model.families.published_hybrids import (
    CODESTRAL_MAMBA,
    GRANITE_4_H_350M,
    GRANITE_4_H_TINY,
    QWEN3_NEXT_80B,
)
from tests.model.families.published_multimodal import GEMMA_4_31B_TEXT
from tests.parity import ours
from tests.parity.equations import EQUATIONS

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "families"


def size_of(config):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))


@pytest.mark.parametrize(
    ("published", "size"),
    [
        (PHI_3_MINI_128K, 3_821_079_552),
        (PHI_4_MINI, 3_836_021_760),
        (GEMMA_4_31B_TEXT, 30_697_345_280 + 60),  # the card's 30.7 billion, and a factor after each layer
        (GRANITE_2B, 2_533_531_648),
        (SMOLLM3_3B, 3_075_098_624),
        (STARCODER2_3B, 3_030_371_328),
        (GLM_4_9B, 9_400_279_040),
        (FALCON_7B, 6_921_720_704),
        (PYTHIA_70M, 70_426_624),
        (GPT_1, 116_534_784),
        (GPT_2_MEDIUM, 354_823_168),
        (GPT_2_XL, 1_557_611_200),
        (GPT_J_6B, 6_050_882_784),
        (BLOOM_176B, 176_247_271_424),
        (OPT_125M, 125_239_296),
        (OPT_350M, 331_196_416),
        (COMMAND_R7B, 8_028_033_024),
        (CODESTRAL_MAMBA, 7_285_403_648),
        (GRANITE_4_H_350M, 340_332_224),
        (GRANITE_4_H_TINY, 6_939_037_248),
        (QWEN3_NEXT_80B, 79_674_391_296),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_as_many_parameters_as_the_model_card_says(published, size):
    assert size_of(model_config(published)) == size


@pytest.mark.parametrize(
    ("published", "billions"), [(FALCON_40B, 41.3), (SCOUT, 107.8), (GROK_1, 315.7)], ids=["40b", "scout", "grok"]
)
def test_about_as_many_parameters_as_the_model_card_says(published, billions):
    assert round(size_of(model_config(published)) / 1e9, 1) == billions


def test_gemma_4_31b():
    config = model_config(GEMMA_4_31B_TEXT)
    local, wide = config.layers[4], config.layers[5]
    assert (local.position, wide.position) == (Rotary(), Rotary(theta=1e6, fraction=0.25, rotated="fastest"))
    assert (local.mixer.head_dim, local.mixer.num_kv_heads, local.mixer.pattern) == (256, 16, SlidingWindow(size=1024))
    assert (wide.mixer.head_dim, wide.mixer.num_kv_heads, wide.mixer.values_from_keys) == (512, 4, True)
    # Left to the defaults of its class, as some files do.
    defaults = ("layer_types", "rope_parameters", "global_head_dim", "rms_norm_eps", "tie_word_embeddings")
    assert model_config({k: v for k, v in GEMMA_4_31B_TEXT.items() if k not in defaults}) == config
    # As `transformers` 5.24 writes it.
    heads = {str(i): {"head_dim": 512, "num_key_value_heads": 4} for i in range(5, 60, 6)}
    newer = {k: v for k, v in GEMMA_4_31B_TEXT.items() if "global" not in k} | {"per_layer_config": heads}
    assert model_config(newer) == config
    with pytest.raises(UserError, match="per_layer_config"):
        model_config(newer | {"per_layer_config": {"5": {"sliding_window": 3}}})


def test_phi_3_mini_128k():
    config = model_config(PHI_3_MINI_128K)
    assert isinstance(config.position.scaling, LongRoPE)
    assert (config.position.scaling.original_length, config.position.scaling.factor) == (4096, 32)
    assert config.mixer.pattern == SlidingWindow(size=262144)  # longer than any sequence


def test_pythia_gptj_and_opt():
    pythia, gptj, opt = map(model_config, (PYTHIA_70M, GPT_J_6B, OPT_125M))
    assert (pythia.position, pythia.residual) == (Rotary(fraction=0.25), Parallel(shared_norm=False))
    assert (gptj.position, gptj.residual) == (Rotary(fraction=0.25, interleaved=True), Parallel())
    assert gptj.unembedding == Untied(bias=True)
    assert (opt.position, opt.dropout.residual) == (Learned(offset=2), 0.1)


def test_opt_350m():
    config = model_config(OPT_350M)
    assert (config.width, config.embedding_width, config.residual) == (1024, 512, PostNorm())
    assert "final_norm" not in abstract_params(config)
    assert model_config(OPT_350M | {"_remove_final_layer_norm": True}) == config  # there is none to remove


def test_what_only_training_does_refuses_no_weights():
    assert model_config(OPT_125M | {"layerdrop": 0.1, "activation_dropout": 0.1}) == model_config(OPT_125M)
    alone = json.loads((FIXTURES / "mixtral" / "0" / "config.json").read_text()) | {"num_experts_per_tok": 1}
    for count in (1, 4):
        experts = model_config(alone | {"num_local_experts": count}).ffn
        assert (experts.num_experts, experts.top_k, experts.router.renormalize) == (count, 1, True)


def test_gpt_2_with_scores_divided_by_the_number_of_the_layer():
    """Mistral's models (Stanford CRFM); their order and format of operations is that of every model here."""
    published = GPT_2_MEDIUM | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}
    plain = model_config(GPT_2_MEDIUM)
    assert model_config(published) == dataclasses.replace(
        plain, mixer=dataclasses.replace(plain.mixer, scale_by_layer=True)
    )
    assert model_config(GPT_2_MEDIUM | {"scale_attn_weights": False}).mixer.scale == 1


def test_gpt_1_is_what_its_paper_says():
    config = model_config(GPT_1)
    assert (config.position, config.residual, config.ffn.activation) == (Learned(), PostNorm(), "gelu_tanh")
    assert (config.initialization, config.dropout.attention) == (Normal(scale_residual=False), 0.1)
    assert "final_norm" not in abstract_params(config)


def test_command_r7b_and_scout_have_global_layers_without_positions():
    command, scout = model_config(COMMAND_R7B), model_config(SCOUT)
    for number, layer in enumerate(command.layers):
        everywhere = number % 4 == 3
        assert isinstance(layer.position, NoPositions if everywhere else Rotary)
        assert layer.mixer.pattern == (Everything() if everywhere else SlidingWindow(size=4096))
    for number, layer in enumerate(scout.layers):
        everywhere = number % 4 == 3
        assert layer.mixer.pattern == (Everything() if everywhere else Chunked(size=8192))
        assert (layer.mixer.temperature is not None) == everywhere
        assert (layer.mixer.qk_norm is None) == everywhere


def test_codestral_mamba_has_no_attention_and_no_feed_forward_layer():
    config = model_config(CODESTRAL_MAMBA)
    assert (config.ffn, config.position, config.context_length) == (None, NoPositions(), 2048)
    assert config.mixer == StateSpace(num_heads=128, num_groups=8, head_dim=64, output_norm=config.norm)
    newer = {"time_step_limit": [0.0, {"__float__": "Infinity"}], "num_heads": None}
    assert model_config(CODESTRAL_MAMBA | newer) == config


def test_which_layers_of_granite_4_and_qwen3_next_attend():
    granite, qwen = model_config(GRANITE_4_H_350M), model_config(QWEN3_NEXT_80B)
    attends = [isinstance(layer.mixer, GroupedQuery) for layer in granite.layers]
    assert [number for number, here in enumerate(attends) if here] == [10, 13, 17, 27]
    assert (granite.position, granite.ffn.width) == (NoPositions(), 2048)
    recurrent = model_config(GRANITE_4_H_350M | {"layer_types": None, "attention_dropout": 0.1})
    assert {type(layer.mixer) for layer in recurrent.layers} == {StateSpace}
    for number, layer in enumerate(qwen.layers):
        everywhere = number % 4 == 3
        assert isinstance(layer.mixer, GroupedQuery if everywhere else GatedDelta)
        assert layer.mixer.output_gate == ("channel" if everywhere else True)
        assert layer.ffn.shared.gate
    assert (qwen.position, qwen.norm.scale) == (Rotary(theta=1e7, fraction=0.25), "zero")


def test_grok_is_what_its_release_says():
    config = model_config(GROK_1)
    assert (config.num_layers, config.width, config.mixer.head_width(config.width)) == (64, 6144, 128)
    assert config.mixer.scale == pytest.approx(128**-0.5)
    assert config.multipliers.embedding == pytest.approx(6144**0.5)
    assert config.multipliers.logits == pytest.approx(3**-0.5)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("grok", "two of four experts"),
        ("grok", "one key head, wide heads, capped"),
        ("internlm2", "two key heads"),
        ("baichuan", "7B: rotary"),
        ("baichuan", "13B: ALiBi, six heads"),
    ],
)
def test_families_without_a_class_against_a_loop_of_their_equations(family, shape, tmp_path):
    source = EQUATIONS[family]
    model = source.make(family, shape)
    source.save(model, tmp_path)
    _, config, params = ours.load(tmp_path)
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (2, 13))
    expected = source.logits(model, ids)
    got = ours.logits_of(config, params, *ours.one_document_rows(ids))
    assert np.abs(got - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    ("published", "changes", "message"),
    [
        (OPT_125M, {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
        (PHI_3_MINI_128K, {"rope_scaling": {"type": "yarn", "factor": 32.0}}, "the type to 'longrope'"),
        (PHI_3_MINI_128K, {"rope_scaling": {"type": "longrope"}}, "no value for rope_scaling.short_factor"),
        (PYTHIA_70M, {"rope_theta": 500.0}, "rope_theta=500.0"),
        (PHI_4_MINI, {"lm_head_bias": True}, "lm_head_bias=True"),
        (SMOLLM3_3B, {"layer_types": 36 * ["sliding_attention"]}, "a sliding layer needs use_sliding_window"),
        (STARCODER2_3B, {"norm_type": "rms_norm"}, "norm_type='rms_norm'"),
        (STARCODER2_3B, {"layer_norm_epsilon": 0.1}, "layer_norm_epsilon=0.1"),
        (PYTHIA_70M, {"hidden_dropout_prob": 0.1}, "hidden_dropout_prob=0.1"),
        (GPT_1, {"afn": "gelu_new"}, "afn='gelu_new' cannot be mapped"),  # its own code does not know it either
        (GPT_1, {"n_special": 3}, "n_special=3"),
        (GPT_2_MEDIUM, {"n_special": 3}, "n_special=3"),
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
        (CODESTRAL_MAMBA, {"time_step_limit": [0.0, 0.1]}, r"time_step_limit=\[0.0, 0.1\]"),
        (CODESTRAL_MAMBA, {"num_heads": 64}, "num_heads=64 .* must make expand \\* hidden_size = 8192"),
        (CODESTRAL_MAMBA, {"hidden_act": "relu"}, "hidden_act='relu'"),
        (GRANITE_4_H_350M, {"layer_types": 31 * ["mamba"]}, "expected one of each of the 32 layers"),
        (GRANITE_4_H_350M, {"layer_types": 32 * ["moe"]}, "layer_types=.*known: linear_attention, mamba"),
        (GRANITE_4_H_350M, {"mamba_d_head": 64}, "mamba_n_heads=48"),
        (GRANITE_4_H_350M, {"position_embedding_type": "alibi"}, "position_embedding_type='alibi'"),
        (QWEN3_NEXT_80B, {"layer_types": 48 * ["sliding_attention"]}, "layer_types="),
        (QWEN3_NEXT_80B, {"attn_output_gate": False}, "attn_output_gate=False"),
    ],
)
def test_what_these_families_do_not_have_is_refused(published, changes, message):
    with pytest.raises(UserError, match=message):
        model_config(published | changes)
