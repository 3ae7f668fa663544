"""Quantised language models within multimodal models, whose experts lie in other pieces than the family's table has."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from model.errors import UserError
from model.families.multimodal import text_names
from tests.tiers import representatives
from tests.train.conversion.folders import published, values_of
from tests.train.conversion.test_quantized import quantize, write_file
from train.conversion.expert_tensors import JoinedExperts
from train.conversion.language_model import LanguageModelFolder
from train.conversion.reading import published_tensors, read_published
from train.conversion.writing import write_published

BLOCKS = {"quant_method": "fp8", "weight_block_size": [5, 8]}
ROWS = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8, "strategy": "channel"}}},
}
LLAMA4, QWEN3_MOE = "multimodal_llama4", "multimodal_qwen3_vl_moe"


def quantized_folder(tmp_path, family, *, inputs_first=False, block=(5, 8)):
    """A folder whose projections are quantised, and its unquantised tensors by their names in the language model."""
    described = ROWS if family == LLAMA4 else BLOCKS | {"weight_block_size": block}
    text = values_of(family)["text_config"] | {"dtype": "bfloat16"}
    folder = published(tmp_path, family, text_config=text, quantization_config=described)
    plain = load_file(folder / "model.safetensors")
    stored = dict(plain)
    for name, x in plain.items():
        if ".experts." in name and family == LLAMA4:
            del stored[name]
            plain[name] = _experts_apart(stored, name, x)
        elif ".experts." in name:
            experts = [quantize(one, block) for one in x]
            weight, scale, plain[name] = (np.stack(parts) for parts in zip(*experts, strict=True))
            order = (0, 2, 1) if inputs_first else (0, 1, 2)
            stored |= {name: weight.transpose(order), name + "_scale_inv": scale.transpose(order)}
        elif "language_model" in name and "_proj.weight" in name:
            end = "_scale" if family == LLAMA4 else "_scale_inv"
            stored[name], stored[name + end], plain[name] = quantize(x, (1, x.shape[1]) if family == LLAMA4 else block)
    write_file(folder, {name: np.ascontiguousarray(x) for name, x in stored.items()})
    return folder, {new: plain[name] for name, new in text_names(plain).items()}


def _experts_apart(stored, name, x):
    """Adds the quantised projections of single experts, a scale a row; returns the tensor of all experts."""
    layer, _, kind = name.rpartition(".")
    names = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
    whole = np.empty_like(x)
    for number, expert in enumerate(x):
        parts = np.split(expert.T, len(names))
        for i, (one, part) in enumerate(zip(names, parts, strict=True)):
            codes, scale, product = quantize(part, (1, part.shape[1]))
            at = f"{layer}.{number}.{one}.weight"
            stored |= {at: codes, at + "_scale": scale}
            whole[number, :, i * len(part) : (i + 1) * len(part)] = product.T
    return whole


def there_and_back(folder, tmp_path):
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    return load_file(tmp_path / "back" / "model.safetensors")


@pytest.mark.parametrize(
    ("family", "inputs_first"),
    representatives(
        [(LLAMA4, False), (QWEN3_MOE, False), (QWEN3_MOE, True), ("multimodal_qwen3_vl", False)],
        (LLAMA4, False),
        (QWEN3_MOE, True),
    ),
)
def test_quantised_language_models_are_read_and_written_back_unquantised(family, inputs_first, tmp_path):
    folder, plain = quantized_folder(tmp_path, family, inputs_first=inputs_first)
    written = there_and_back(folder, tmp_path)
    if family == QWEN3_MOE:
        plain = _as_qwen3_moe(plain)
    assert written.keys() == plain.keys()
    for name, x in plain.items():
        assert written[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(written[name], x, err_msg=name)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert "quantization_config" not in config
    assert LanguageModelFolder(tmp_path / "back").model.read().config == LanguageModelFolder(folder).model.read().config


def _as_qwen3_moe(plain):
    """The tensors with an expert each, as Qwen3's files have them."""
    found = {}
    for name, x in plain.items():
        layer, dot, kind = name.partition(".experts.")
        names = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for number, expert in enumerate(x if dot else ()):
            for one, part in zip(names, np.split(expert, len(names)), strict=True):
                found[f"{layer}.experts.{number}.{one}.weight"] = part
        found |= {} if dot else {name: x}
    return found


def test_a_part_of_joined_experts_is_that_part_of_the_whole(tmp_path):
    folder, plain = quantized_folder(tmp_path, LLAMA4)
    opened = LanguageModelFolder(folder)
    reading = opened.model.read()
    tensors = published_tensors(opened.model.family, reading.config, opened)
    joined = [source for source in tensors.weights.values() if isinstance(source, JoinedExperts)]
    assert len(joined) == 2
    for source in joined:
        positions = [np.arange(n)[n // 3 :: 2] for n in source.shape]
        part = source.read(opened, positions, ml_dtypes.bfloat16)
        np.testing.assert_array_equal(part, plain[source.name][np.ix_(*positions)])


def test_scales_that_belong_to_two_projections_are_refused(tmp_path):
    folder, _ = quantized_folder(tmp_path, QWEN3_MOE, block=(4, 8))
    with pytest.raises(
        UserError, match=r"gate_up_proj_scale_inv is 5x5x2: scales of gate_proj and up_proj cannot be told"
    ):
        LanguageModelFolder(folder)


def test_experts_of_another_shape_are_refused(tmp_path):
    folder = published(tmp_path, QWEN3_MOE)
    tensors = load_file(folder / "model.safetensors")
    name = "model.language_model.layers.1.mlp.experts.down_proj"
    write_file(folder, tensors | {name: tensors[name][:, :, :9].copy()})
    with pytest.raises(UserError, match=r"experts.down_proj 5x16x9 is no tensor of such a model"):
        read_published(folder, tmp_path / "run")
