"""config.json files of recent published models, and the values in them that families must refuse."""

import fnmatch
import math

import jax
import pytest

from model.attention.grouped_query import QKNorm
from model.cost import count_parameters
from model.errors import UserError
from model.families import family_named, family_of, model_config
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.positions.alibi import ALiBi
from model.positions.query_scale import LogTemperature
from model.positions.rotary import Rotary
from model.positions.scaling import YaRN
from model.transformer import abstract_params
from model.vocabulary.embedding import Untied
from tests.model.families.recent_published_configs import (
    BAICHUAN_1_7B,
    BAICHUAN_1_13B,
    BAICHUAN_2_7B,
    BAICHUAN_2_13B,
    DEVSTRAL_2_123B,
    DEVSTRAL_SMALL_2_24B,
    DOTS_LLM1,
    GLM_4_5,
    GLM_4_5_AIR,
    GRANITE_3_1B_A400M,
    INTERNLM2_7B,
    KIMI_K2,
    SEED_OSS_36B,
)


@pytest.mark.parametrize(
    ("published", "size"),
    [
        (SEED_OSS_36B, 36_151_104_512),
        (GRANITE_3_1B_A400M, 1_334_628_352),
        (INTERNLM2_7B, 7_737_708_544),
        (BAICHUAN_1_7B, 7_000_559_616),
        (BAICHUAN_1_13B, 13_264_901_120),
        (BAICHUAN_2_7B, 7_505_973_248),
        (BAICHUAN_2_13B, 13_896_668_160),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_as_many_parameters_as_the_model_card_says(published, size):
    config = model_config(published)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config))) == size


@pytest.mark.parametrize(
    ("published", "total", "active"),
    [
        (KIMI_K2, 1026, 33),  # 1 trillion and 32 billion on its card, without embeddings
        (GLM_4_5, 353, 34),  # 355 and 32, with the layer for multi-token prediction and without embeddings
        (GLM_4_5_AIR, 107, 13),  # 106 and 12, counted in the same way
        (DOTS_LLM1, 143, 14),  # 142 and 14
        (DEVSTRAL_2_123B, 125, 125),
        (DEVSTRAL_SMALL_2_24B, 24, 24),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_about_as_many_parameters_as_the_model_card_says(published, total, active):
    count = count_parameters(model_config(published))
    assert (round(count.total / 1e9), round(count.active / 1e9)) == (total, active)


def test_kimi_k2_is_deepseek_v3_with_a_step_in_its_frequencies():
    config = model_config(KIMI_K2)
    assert config == model_config(KIMI_K2 | {"model_type": "deepseek_v3"})
    scaling = config.position.scaling
    assert isinstance(scaling, YaRN)
    assert (scaling.beta_fast, scaling.beta_slow, scaling.amplitude) == (1, 1, 1)
    assert config.mixer.scale == pytest.approx((0.1 * math.log(32) + 1) ** 2 * 192**-0.5)
    assert [isinstance(layer.ffn, Gated) for layer in config.layers] == [True] + 60 * [False]


def test_glm_4_5_and_its_layer_for_multi_token_prediction():
    large, air = model_config(GLM_4_5), model_config(GLM_4_5_AIR)
    assert large.position == air.position == Rotary(theta=1e6, fraction=0.5)
    assert (large.mixer.qk_norm, air.mixer.qk_norm) == (QKNorm(norm=RMSNorm(epsilon=1e-5)), None)
    assert (large.layers[2].ffn.width, large.layers[3].ffn.router.scale) == (12288, 2.5)
    family = family_of(GLM_4_5)
    for layer, config in ((92, large), (46, air)):
        name = f"model.layers.{layer}.eh_proj.weight"
        assert any(fnmatch.fnmatch(name, pattern) for pattern in family.buffer_patterns(config))
        assert not any(name.startswith(f"model.layers.{layer}.") for name in family.tensors(config))


def test_dots_has_windows_only_in_late_layers():
    windows = model_config(DOTS_LLM1 | {"num_hidden_layers": 4, "sliding_window": 8, "max_window_layers": 3})
    assert [layer.mixer.pattern.reach() for layer in windows.layers] == [None, None, None, 8]
    assert isinstance(model_config(DOTS_LLM1).layers[1].ffn, Experts)


def test_ministral_3_queries_grow_past_the_original_length():
    small = model_config(DEVSTRAL_SMALL_2_24B)
    assert small.mixer.temperature == LogTemperature(step_length=8192, scale=0.1, offset=0)
    assert small.position.scaling.amplitude == 1
    large = model_config(DEVSTRAL_2_123B)
    assert large.mixer.temperature is None
    assert large.position.scaling.amplitude == pytest.approx(0.1 * math.log(64) + 1)


def test_which_baichuan_it_is():
    for published, position, unit_norm in (
        (BAICHUAN_1_7B, Rotary(), False),
        (BAICHUAN_1_13B, ALiBi(), False),
        (BAICHUAN_2_7B, Rotary(), True),
        (BAICHUAN_2_13B, ALiBi(), True),
    ):
        config = model_config(published)
        assert (config.position, config.unembedding) == (position, Untied(unit_norm=unit_norm))
        assert config.context_length == 4096


def test_a_shared_expert_of_granite_may_be_missing():
    shared = GRANITE_3_1B_A400M | {"model_type": "granitemoeshared", "architectures": ["GraniteMoeSharedForCausalLM"]}
    assert model_config(shared) == model_config(GRANITE_3_1B_A400M)
    assert model_config(shared | {"shared_intermediate_size": 64}).ffn.shared.ffn.width == 64
    names = family_named("granitemoeshared").tensors(model_config(shared | {"shared_intermediate_size": 64}))
    assert names["model.layers.23.shared_mlp.input_linear.weight"].shape == (128, 1024)


@pytest.mark.parametrize(
    ("published", "changes", "message"),
    [
        (KIMI_K2, {"scoring_func": "softmax"}, 'scoring_func="softmax"'),
        (KIMI_K2, {"moe_layer_freq": 2}, "moe_layer_freq=2"),
        (GLM_4_5, {"topk_method": "greedy"}, 'topk_method="greedy"'),
        (DOTS_LLM1, {"n_routed_experts": None}, "no value for n_routed_experts"),
        (DOTS_LLM1, {"moe_layer_freq": 2}, "moe_layer_freq=2"),
        (DEVSTRAL_2_123B, {"rope_parameters": None}, "no value for rope_parameters"),
        (BAICHUAN_2_7B, {"tie_word_embeddings": True}, "tie_word_embeddings=true"),
        (BAICHUAN_2_7B, {"rope_theta": 5e5}, "rope_theta=500000.0"),
        (INTERNLM2_7B, {"rope_scaling": {"type": "spiral"}}, 'rope_scaling.type="spiral"'),
    ],
)
def test_what_these_families_do_not_have_is_refused(published, changes, message):
    with pytest.raises(UserError, match=message):
        model_config(published | changes)
