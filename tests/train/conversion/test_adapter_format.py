"""Names, shapes and orders of adapters' tensors, by the weight tables of families."""

import dataclasses

import numpy as np
import pytest

from model.errors import UserError
from model.families import family_named, model_config
from model.parameters.adapters import MAGNITUDE, A, B, DoRA, LoRA
from model.parameters.names import flatten
from model.transformer import abstract_params
from tests.train.conversion.folders import values_of
from train.conversion.adapter_format import config_of, places, read_option, roles_of


def modules(name, family=None):
    config = model_config(values_of(name))
    return config, *places(family_named(family or name), config)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "bloom"])
def test_a_change_of_low_rank_is_the_same_in_either_order(family):
    """In the published tensor and in the parameter: that of A and B equals A' and B' of the published order."""
    config, found, _ = modules(family)
    place = next(iter(found.values()))
    tensor = family_named(family).tensors(config)[f"{place.module}.weight"]
    (part,) = tensor.parts
    draw, split = np.random.default_rng(0), place.input_axes
    a, b = draw.normal(size=(*place.shape[:split], 3)), draw.normal(size=(3, *place.shape[split:]))
    published = part.to_tensor(np.tensordot(a, b, 1))
    theirs = place.to_published(B, b) @ place.to_published(A, a)
    np.testing.assert_allclose(theirs.T if place.turned else theirs, published, rtol=1e-12)
    magnitude = draw.normal(size=place.shape[split:])
    for factor, x in ((A, a), (B, b), (MAGNITUDE, magnitude)):
        assert place.to_published(factor, x).shape == place.shape_of(factor, 3)
        np.testing.assert_array_equal(place.from_published(factor, place.to_published(factor, x)), x)


def test_modules_of_one_matrix_and_of_several():
    config, found, fused = modules("llama")
    assert len(found) == 7 * config.num_layers
    assert not fused
    assert found["model.layers.1.self_attn.o_proj"].index == (1,)
    _, found, fused = modules("gpt2")
    assert all(place.turned for place in found.values())
    assert any(name.endswith("c_attn") for name in fused)
    _, found, fused = modules("mixtral")
    assert {name.rpartition(".")[2] for name in found} == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize(
    ("chosen", "roles"),
    [
        (["mixer.query", "mixer.value"], ("projection:heads", "value:kv_heads")),
        (["mixer.query", "mixer.key", "ffn.gate", "mixer.value", "ffn.up", "mixer.output", "ffn.down"], None),
        (["ffn.down"], ("residual:ffn",)),
        (["mixer.query", "mixer.key"], ("projection:head_dim",)),
    ],
)
def test_roles_that_choose_exactly_these(chosen, roles):
    config = dataclasses.replace(model_config(values_of("llama")))
    found = roles_of(config, {f"blocks.{name}" for name in chosen})
    assert found == (roles or ("projection", "value", "residual"))
    adapted = {
        name.removesuffix(".lora_a").removeprefix("blocks.")
        for name in flatten(abstract_params(dataclasses.replace(config, adapters=LoRA(roles=found))))
        if name.endswith("lora_a")
    }
    assert adapted == set(chosen)


PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "lora_dropout": 0.1}


def test_the_options_of_a_config():
    assert read_option(PEFT, "x", ("value",)) == LoRA(rank=4, alpha=8.0, roles=("value",))
    stable = PEFT | {"use_rslora": True, "use_dora": True, "modules_to_save": None, "rank_pattern": {}}
    assert read_option(stable, "x", ("value",)) == DoRA(rank=4, alpha=8.0, scaling="sqrt_rank", roles=("value",))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3', expected LORA"),
        ({"bias": "all"}, "bias='all', expected none"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', expected a start that leaves"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern={'q_proj': 2}, expected nothing"),
        ({"layers_to_transform": [0]}, r"layers_to_transform=\[0\], expected nothing"),
        ({"r": "4"}, "r='4' and lora_alpha=8, expected numbers above 0"),
    ],
)
def test_configs_that_no_option_describes(change, problem):
    with pytest.raises(UserError, match=problem):
        read_option(PEFT | change, "adapter_config.json", ("value",))


def test_target_modules_are_last_names_unless_these_are_others_too():
    _, found, _ = modules("llama")
    queries = [place for place in found.values() if place.parameter.endswith("query")]
    rest = [name for name, place in found.items() if place not in queries]
    values = config_of(LoRA(alpha=16.0), queries, rest, "meta/llama")
    assert values["target_modules"] == ["q_proj"]
    assert (values["lora_alpha"], values["base_model_name_or_path"]) == (16, "meta/llama")
    some = config_of(LoRA(alpha=0.5), queries[:1], [*rest, queries[1].module], None)
    assert some["target_modules"] == [queries[0].module]
    assert some["lora_alpha"] == 0.5
