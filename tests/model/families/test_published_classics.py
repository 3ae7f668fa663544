"""config.json files of published models of 2021 to 2024, and the values in them that families must refuse."""

import math

import jax
import pytest

from model.attention.grouped_query import QKNorm
from model.attention.patterns import Everything, SlidingWindow
from model.config import model_differences
from model.errors import UserError
from model.families import family_of, model_config
from model.norms import LayerNorm
from model.positions.rotary import Rotary
from model.residual import Parallel, PreNorm
from model.transformer import abstract_params
from tests.model.families.published_classics import (
    BERT_BASE,
    COMMAND_R,
    GPT_J_AS_GPT_NEO,
    HF_OLMO_1B,
    MODERNBERT_BASE,
    OLMO_1B,
    PHI_1,
    PHI_2,
    PHI_2_MSFT,
    ROBERTA_BASE,
    SANTACODER,
    STABLELM_2_EPOCH,
    STABLELM_3B,
    STARCODER,
    TINYSTORIES_8M,
)


@pytest.mark.parametrize(
    ("published", "size"),
    [
        (TINYSTORIES_8M, 19_702_528),
        (SANTACODER, 1_124_886_528),
        (STARCODER, 15_517_456_384),
        (OLMO_1B, 1_176_764_416),
        (HF_OLMO_1B, 1_176_764_416),
        (COMMAND_R, 34_980_831_232),
        (STABLELM_3B, 2_795_443_200),
        (STABLELM_2_EPOCH, 1_644_515_328),
        (PHI_1, 1_414_562_935),
        (PHI_2, 2_779_683_840),
        (PHI_2_MSFT, 2_779_683_840),
        (BERT_BASE, 109_514_298),
        (ROBERTA_BASE, 124_697_433),
        (MODERNBERT_BASE, 149_655_232),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_the_number_of_parameters(published, size):
    params = abstract_params(model_config(published))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == size


def test_tinystories_has_windows_in_every_second_layer_and_no_scale():
    config = model_config(TINYSTORIES_8M)
    for number, layer in enumerate(config.layers):
        assert layer.mixer.pattern == (SlidingWindow(size=256) if number % 2 else Everything())
        assert (layer.mixer.scale, layer.mixer.qkv_bias, layer.mixer.output_bias) == (1.0, False, True)
    # What the file says about every layer counts before the types, as in `transformers`.
    others = model_config(TINYSTORIES_8M | {"attention_layers": 8 * ["local"]})
    assert others.mixer.pattern == SlidingWindow(size=256)
    assert not others.exceptions


def test_starcoder_has_one_key_head():
    config = model_config(STARCODER)
    assert (config.mixer.kv_heads, config.mixer.scale, config.ffn.activation) == (1, None, "gelu")
    assert model_config(STARCODER | {"multi_query": False}).mixer.kv_heads == 48
    assert model_config(STARCODER | {"scale_attn_weights": False}).mixer.scale == 1.0


def test_olmo_norms_have_no_weights_and_larger_models_clip():
    config = model_config(OLMO_1B)
    assert config.norm == LayerNorm(epsilon=1e-5, scale=False, bias=False)
    assert config.mixer.qkv_clip is None
    assert model_config(OLMO_1B | {"clip_qkv": 8.0}).mixer.qkv_clip == 8.0


def test_command_r_and_command_r_plus():
    config = model_config(COMMAND_R)
    assert (config.position, config.residual) == (Rotary(theta=8e6, interleaved=True), Parallel())
    assert (config.multipliers.logits, config.mixer.qk_norm) == (0.0625, None)
    plus = model_config(COMMAND_R | {"use_qk_norm": True})
    assert plus.mixer.qk_norm == QKNorm(norm=LayerNorm(bias=False), over="each_head")


def test_stablelm_one_after_the_other_or_parallel():
    config = model_config(STABLELM_3B)
    assert (config.position, config.residual) == (Rotary(fraction=0.25), PreNorm())
    parallel = model_config(STABLELM_3B | {"use_parallel_residual": True, "qk_layernorm": True})
    assert parallel.residual == Parallel()
    assert parallel.mixer.qk_norm == QKNorm(norm=LayerNorm(bias=False), over="each_head")


def test_older_files_describe_the_models_of_newer_ones():
    assert model_differences(model_config(PHI_2), model_config(PHI_2_MSFT)) == []
    assert model_differences(model_config(OLMO_1B), model_config(HF_OLMO_1B)) == []
    newer = STABLELM_3B | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24}
    newer |= {"use_qkv_bias": True, "vocab_size": 100352}
    assert model_differences(model_config(newer), model_config(STABLELM_2_EPOCH)) == []


def test_vocabularies_of_phi_msft_are_padded():
    assert model_config(PHI_2_MSFT | {"vocab_size": 50295}).vocab_size == 50304
    assert model_config(PHI_2_MSFT | {"vocab_size": 50295, "pad_vocab_size_multiple": 1}).vocab_size == 50295


@pytest.mark.parametrize(
    ("published", "changes", "message"),
    [
        (GPT_J_AS_GPT_NEO, {}, "rotary=true: this is GPT-J as of early 2021; .* of model_type gptj$"),
        (TINYSTORIES_8M, {"num_layers": 6}, "it names 8 layers, and the model has 6"),
        (
            TINYSTORIES_8M,
            {"attention_layers": 8 * ["dilated"]},
            "attention_layers=.*expected global or local for each layer",
        ),
        (SANTACODER, {"add_cross_attention": True}, "add_cross_attention=true"),
        (OLMO_1B, {"d_model": 2048}, "change its model_type to hf_olmo"),
        (HF_OLMO_1B, {"block_type": "parallel"}, 'block_type="parallel"'),
        (HF_OLMO_1B, {"rope": False}, "rope=false"),
        (HF_OLMO_1B, {"layer_norm_type": "l2"}, 'layer_norm_type="l2"'),
        (STABLELM_3B, {"head_dim": 64}, "head_dim=64 is not supported: expected 80"),
        (STABLELM_2_EPOCH, {"hidden_act": "gelu"}, 'hidden_act="gelu"'),
        (PHI_1, {"tie_word_embeddings": True}, "tie_word_embeddings=true"),
        (PHI_2_MSFT, {"tie_word_embeddings": True}, "tie_word_embeddings=true"),
        (PHI_2_MSFT, {"num_local_experts": 4, "num_experts_per_tok": 2}, "this is Phixtral"),
    ],
)
def test_refused(published, changes, message):
    with pytest.raises(UserError, match=message):
        model_config(published | changes)


def test_modernbert_is_global_in_every_third_layer_and_looks_64_tokens_to_both_sides():
    config = model_config(MODERNBERT_BASE)
    for number, layer in enumerate(config.layers):
        local = number % 3 != 0
        assert layer.mixer.pattern == (SlidingWindow(size=65) if local else Everything())
        assert layer.position == Rotary(theta=10_000.0 if local else 160_000.0)
        assert layer.unnormed == (number == 0)


def test_roberta_has_no_rows_for_the_positions_of_padding():
    config = model_config(ROBERTA_BASE)
    assert (config.context_length, config.position.offset, config.token_types) == (512, 2, 1)


@pytest.mark.parametrize("key", ["is_decoder", "add_cross_attention"])
def test_a_bert_that_decodes_is_refused(key):
    with pytest.raises(UserError, match=f"{key}=true is not supported: expected false"):
        model_config(BERT_BASE | {key: True})


def test_early_files_of_bert_have_old_names_of_norms():
    family, config = family_of(BERT_BASE), model_config(BERT_BASE)
    name = "bert.encoder.layer.3.output.LayerNorm.weight"
    old = "bert.encoder.layer.3.output.LayerNorm.gamma"
    assert family.file_names(config, {old})[name] == old
    assert family.file_names(config, {name})[name] == name
