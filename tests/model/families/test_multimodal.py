"""Language models within published multimodal models: their values, their defaults, the names of their tensors."""

import json

import pytest

from model.attention.patterns import Everything, SlidingWindow
from model.errors import UserError
from model.families import published_model
from model.families.multimodal import MULTIMODAL, left_out_prefix, text_names
from model.feedforward.routing import SoftmaxRouter
from model.norms import RMSNorm
from model.positions.scaling import LinearScaling, YaRN
from model.residual import Sandwich
from model.vocabulary.embedding import Tied, Untied
from model.vocabulary.per_layer import PerLayerEmbedding
from tests.model.families.published_multimodal import (
    GEMMA_3_4B,
    GEMMA_4_26B_A4B,
    GEMMA_4_31B,
    GEMMA_4_E2B,
    LLAMA_4_SCOUT,
    MISTRAL_SMALL_3_1,
    QWEN_2_5_VL_3B,
    QWEN_3_VL_4B,
    QWEN_3_VL_30B_A3B,
)
from tests.model.families.test_config_json import size_of
from tests.parity.keys import FIXTURE


@pytest.mark.parametrize(
    ("published", "family", "size"),
    [
        (GEMMA_3_4B, "gemma3", 3_880_263_168),
        (GEMMA_4_31B, "gemma4", 30_697_345_340),
        (GEMMA_4_E2B, "gemma4", 4_628_569_379),
        (GEMMA_4_26B_A4B, "gemma4", 25_233_141_790),
        (LLAMA_4_SCOUT, "llama4", 107_769_861_120),
        (MISTRAL_SMALL_3_1, "mistral", 23_572_403_200),
        (QWEN_2_5_VL_3B, "qwen2", 3_085_938_688),
        (QWEN_3_VL_4B, "qwen3", 4_022_468_096),
        (QWEN_3_VL_30B_A3B, "qwen3_moe", 30_532_122_624),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_as_many_parameters_as_its_language_model_has(published, family, size):
    """The sizes are those of the models of text alone; that of Mistral Small is also the size of its 2501 release."""
    model = published_model(published)
    reading = model.read()
    assert (model.family.name, model.multimodal.model_type) == (family, published["model_type"])
    assert size_of(reading.config) == size
    assert reading.ignored == {}
    assert model.values["architectures"] == [model.family.architecture]


def test_gemma_3_4b_has_what_its_file_leaves_out():
    config = published_model(GEMMA_3_4B).read().config
    local, everywhere = config.layers[0], config.layers[5]
    assert (config.vocab_size, config.context_length, config.mixer.num_heads) == (262208, 131072, 8)
    assert isinstance(config.unembedding, Tied)
    assert (local.mixer.pattern, everywhere.mixer.pattern) == (SlidingWindow(size=1024), Everything())
    assert (local.position.theta, local.position.scaling) == (1e4, None)
    assert (everywhere.position.theta, everywhere.position.scaling) == (1e6, LinearScaling(factor=8.0))


def test_gemma_4_e2b():
    """Late layers see the keys of the last earlier layer of their type, and have a feed-forward layer twice as wide."""
    config = published_model(GEMMA_4_E2B).read().config
    assert [layer.mixer.kv_from_layer for layer in config.layers] == 15 * [None] + 4 * [13, 13, 13, 13, 14]
    assert [layer.ffn.width for layer in config.layers] == 15 * [6144] + 20 * [12288]
    assert config.per_layer_embedding == PerLayerEmbedding(width=256, activation="gelu_tanh")


def test_gemma_4_26b_a4b():
    """Its layers read the stream: the router, the experts and the feed-forward layer have norms of their own."""
    config = published_model(GEMMA_4_26B_A4B).read().config
    norm = RMSNorm(epsilon=1e-6)
    assert config.residual == Sandwich(ffn_input_norm=False)
    assert (config.ffn.branch_norms, config.ffn.shared.ffn.width, config.ffn.expert.width) == (norm, 2112, 704)
    assert config.ffn.router == SoftmaxRouter(norm=norm, logit_scale=2816**-0.5, expert_scale=True)


def test_positions_of_several_axes_are_plain_positions_of_text():
    config = published_model(QWEN_2_5_VL_3B).read().config
    assert (config.position.theta, config.position.scaling) == (1e6, None)
    scaled = {"type": "yarn", "mrope_section": [16, 24, 24], "factor": 4, "original_max_position_embeddings": 32768}
    config = published_model(QWEN_2_5_VL_3B | {"rope_scaling": scaled}).read().config
    assert config.position.scaling == YaRN(factor=4, original_length=32768)


@pytest.mark.parametrize(
    ("outer", "inner", "tensors", "expected"),
    [
        (None, None, None, Untied),
        (True, None, None, Tied),
        (None, True, None, Tied),
        (False, True, ["model.language_model.norm.weight", "lm_head.weight"], Untied),
        (False, True, ["model.language_model.norm.weight"], Tied),
        (None, None, ["language_model.lm_head.weight"], Untied),
        (None, None, ["language_model.model.norm.weight"], Tied),
    ],
)
def test_whether_the_unembedding_is_tied(outer, inner, tensors, expected):
    text = QWEN_3_VL_4B["text_config"] | {"tie_word_embeddings": inner}
    values = QWEN_3_VL_4B | {"text_config": text, "tie_word_embeddings": outer}
    assert isinstance(published_model(values, tensors).read().config.unembedding, expected)


def test_defaults_are_those_of_the_classes():
    recorded = json.loads(FIXTURE.read_text())["defaults"]
    for kind in MULTIMODAL:
        for text_type, defaults in kind.defaults.items():
            fields = {key: value for key, value in defaults.items() if key in recorded[text_type]}
            assert fields == recorded[text_type]
            # Of one class an unwritten product, and values that the classes do not have as fields.
            assert defaults.keys() - fields.keys() <= {"max_position_embeddings", "rope_theta", "norm_topk_prob"}


def test_names_of_tensors_in_all_layouts():
    first = ["language_model.model.norm.weight", "language_model.lm_head.weight", "vision_tower.a.b", "projector.c"]
    assert list(text_names(first).values()) == ["model.norm.weight", "lm_head.weight"]
    second = ["model.language_model.norm.weight", "lm_head.weight", "model.visual.a", "model.projector.c"]
    assert list(text_names(second).values()) == ["model.norm.weight", "lm_head.weight"]
    early = ["model.norm.weight", "lm_head.weight", "visual.a"]
    assert text_names(early) == {"model.norm.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}
    assert [left_out_prefix(name) for name in ("visual.a.b", "model.visual.a", "x")] == ["visual", "model.visual", "x"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["Gemma3ForSequenceClassification"]},
            'expected Gemma3ForConditionalGeneration for model_type="gemma3"; take the model in that form',
        ),
        (  # a language model alone, under the name of the whole model
            {"architectures": ["Gemma3ForCausalLM"]},
            'or, for a language model alone, model_type="gemma3_text"; correct the wrong one',
        ),
        (  # before the form of the model
            {"architectures": ["Gemma3Model"], "quantization_config": {"quant_method": "hqq", "bits": 4}},
            r"quantised with hqq \(4 bits\) are not read",
        ),
        (
            {"text_config": {"model_type": "bert"}},
            'text_config.model_type="bert" is not supported in a gemma3: expected gemma3_text',
        ),
        ({"text_config": {"model_type": []}}, r"text_config.model_type=\[\] is not supported in a gemma3"),
        ({"tie_word_embeddings": "False"}, 'tie_word_embeddings="False", expected true or false'),
        ({"text_config": GEMMA_3_4B["text_config"] | {"is_causal": False}}, "is_causal=false"),
    ],
)
def test_other_language_models_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        published_model(GEMMA_3_4B | changes).read()


def test_a_key_of_text_config_is_accepted_by_either_path():
    values = GEMMA_3_4B | {"text_config": GEMMA_3_4B["text_config"] | {"is_causal": False}}
    for path in ("is_causal", "text_config.is_causal"):
        assert published_model(values).read([path]).accepted == {"is_causal": False}
