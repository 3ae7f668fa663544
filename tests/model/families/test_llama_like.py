import json
import pathlib

import pytest

from model.errors import UserError
from model.families import family_named, model_config
from model.families.config_json import ConfigJson
from model.families.llama_like import by_layer, layer_windows, sparse_layers

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "families"


def read(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_model_describes_itself_again(number):
    published = read(FIXTURES / "llama" / str(number))
    config = model_config(published)
    assert model_config(family_named("llama").config_json(config)) == config


def test_the_commonest_kind_of_layer_is_the_model_and_the_others_are_exceptions():
    def fields(kind):
        return {"mixer": kind}

    assert by_layer(["a", "a", "a"], fields) == {"mixer": "a", "exceptions": ()}
    cases = {  # the layers of kind b among those of kind a, and their slices
        "aaba": ["2"],
        "baaaa": ["0"],
        "aabbaa": ["2:4"],
        "bbaaa": [":2"],
        "aaabb": ["3:"],
        "ababa": ["1::2"],
        "babaaa": [":3:2"],
        "abaabbaa": ["1", "4:6"],
    }
    for kinds, slices in cases.items():
        found = by_layer(list(kinds), fields)
        assert found["mixer"] == "a"
        assert [one.layers for one in found["exceptions"]] == slices, kinds
        chosen = [n for where in slices for n in selected(where, len(kinds))]
        assert chosen == [n for n, kind in enumerate(kinds) if kind == "b"]


def selected(where, total):
    if ":" not in where:
        return [int(where)]
    return list(range(total))[slice(*(int(part) if part else None for part in where.split(":")))]


def test_layers_with_experts():
    published = ConfigJson({"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]})
    assert sparse_layers(published) == [False, True, False, False, False, True]
    none = ConfigJson({"num_hidden_layers": 2, "num_experts": 0})
    assert sparse_layers(none) == [False, False]
    dense = read(FIXTURES / "qwen3_moe" / "0") | {"num_experts": 0, "num_local_experts": 0}
    assert model_config(dense).ffn == model_config(read(FIXTURES / "qwen3" / "0")).ffn


def test_windows_begin_after_the_first_layers():
    values = {"num_hidden_layers": 4, "max_window_layers": 1, "sliding_window": 64}
    assert layer_windows(ConfigJson(values | {"use_sliding_window": True})) == [None, 64, 64, 64]
    assert layer_windows(ConfigJson(values)) == [None, None, None, None]


def test_a_type_is_given_for_every_layer():
    values = read(FIXTURES / "qwen3" / "1") | {"layer_types": ["full_attention"]}
    with pytest.raises(UserError, match="expected sliding_attention or full_attention for each of 3 layers"):
        model_config(values)
    values = read(FIXTURES / "llama4" / "0") | {"layer_types": ["full_attention"]}
    with pytest.raises(UserError, match=r"expected chunked_attention or full_attention for each of \d layers"):
        model_config(values)
