"""What a config.json says about quantised weights: as published, read or refused in a line."""

import pytest

from model.errors import UserError
from model.families.quantization import (
    Packing,
    Quantization,
    description_of,
    method_not_read,
    method_of_tensors,
    quantization_of,
    without_quantization,
)

FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
GROUP = {"targets": ["Linear"], "weights": FP8_WEIGHTS, "input_activations": {"num_bits": 8, "type": "float"}}
FLOAT = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": GROUP}}
MODELOPT = {"config_groups": {"group_0": GROUP}, "quant_algo": "FP8", "producer": {"name": "modelopt"}}
INT4 = FLOAT | {
    "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
}
BLOCKS = FLOAT | {"config_groups": {"g": {"weights": FP8_WEIGHTS | {"block_structure": [128, 128]}}}}


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (  # DeepSeek-V3 and R1, Qwen3-FP8, Kimi-K2
            {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
            Quantization("fp8", (128, 128)),
        ),
        ({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}, Quantization("fp8")),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, Quantization("fbgemm_fp8")),
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, Quantization("mxfp4")),
        (FLOAT, Quantization("compressed-tensors fp8", rounds_like_scale=True)),
        (BLOCKS, Quantization("compressed-tensors fp8", (128, 128), rounds_like_scale=True)),
        (MODELOPT, Quantization("modelopt fp8")),
        ({"quant_method": "gptq", "bits": 8}, Quantization("gptq", packing=Packing(8, zero_offset=1))),
        (
            {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
            Quantization("gptq", packing=Packing(4)),
        ),
        (
            {"quant_method": "awq", "bits": 4, "version": "gemm"},
            Quantization("awq", packing=Packing(4, is_awq=True)),
        ),
    ],
)
def test_methods_that_are_read(described, expected):
    assert quantization_of({"quantization_config": described}) == expected
    assert quantization_of({"compression_config": described}) == expected
    assert quantization_of({"text_config": {"quantization_config": described}}) == expected


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ({"quant_method": "awq", "bits": 3, "group_size": 128}, "awq (3 bits)"),
        ({"quant_method": "awq", "bits": 4, "version": "GEMV"}, "awq in the layout gemv"),
        ({"quant_method": "gptq", "bits": 3}, "gptq (3 bits)"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "gptq in the layout marlin"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes (4 bits)"),
        ({"group_size": 64, "bits": 4}, "mlx (4 bits)"),
        (MODELOPT | {"quant_algo": "NVFP4", "quant_method": "modelopt"}, "modelopt NVFP4"),
        # NVIDIA's DeepSeek-V4-Flash-NVFP4, whose method is called fp8
        (MODELOPT | {"quant_algo": "MIXED_PRECISION", "quant_method": "fp8"}, "modelopt MIXED_PRECISION"),
        (INT4, "compressed-tensors pack-quantized (4 bits)"),
        (FLOAT | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "compressed-tensors sparse-24-bitmask"),
        (FLOAT | {"transform_config": {"config_groups": {"R1": {}}}}, "compressed-tensors with a transform_config"),
        (
            {"load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"},
            "bitsandbytes (4 bits)",
        ),  # of 2023
        ({"bits": 4, "group_size": 128, "desc_act": False}, "gptq (4 bits)"),
        ({"w_bit": 4, "q_group_size": 128, "zero_point": True}, "awq (4 bits)"),
        ({"bits": 4}, "a method without a name (4 bits)"),
        ({"config": "own"}, "a method without a name"),
    ],
)
def test_other_methods_are_refused_in_a_line(described, name):
    described = described | {"modules_to_not_convert": [f"model.layers.{i}.mlp.gate" for i in range(400)]}
    with pytest.raises(UserError) as error:
        quantization_of({"quantization_config": described})
    assert f"weights quantised with {name}" in str(error.value)
    assert "take the model's repository that is not quantised, or " in str(error.value)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)
    assert method_not_read({"quantization_config": described}).startswith(name)


def test_the_remedy_is_the_one_of_the_method():
    with pytest.raises(UserError, match=r"model.dequantize\(\), and save it with save_pretrained"):
        quantization_of({"quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(UserError, match="mlx_lm.convert --dequantize"):
        quantization_of({"quantization": {"bits": 4, "group_size": 64}})


def test_values_of_another_kind():
    with pytest.raises(UserError, match="quantization_config is no object"):
        quantization_of({"quantization_config": "fp8"})
    with pytest.raises(UserError, match=r"a scale is \[128\], expected two numbers"):
        quantization_of({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}})


@pytest.mark.parametrize(
    "changes", [{"config_groups": [1]}, {"config_groups": {"g": 1}}, {"sparsity_config": "x"}, {"transform_config": 3}]
)
def test_parts_of_another_kind(changes):
    with pytest.raises(
        UserError, match=r"(config_groups|g|_config) in the description of the quantisation is no object"
    ):
        quantization_of({"quantization_config": FLOAT | changes})


def test_a_method_is_known_by_the_names_of_its_tensors():
    layer = "model.layers.0.mlp.down_proj"
    assert (
        method_of_tensors([f"{layer}.qweight", f"{layer}.scales"])
        == "GPTQ or AWQ without a quantization_config in config.json"
    )
    assert method_of_tensors([f"{layer}.weight", f"{layer}.weight.absmax"]) == "bitsandbytes (4 bits)"
    assert method_of_tensors([f"{layer}.weight", f"{layer}.weight_scale_inv"]) is None


def test_the_model_without_its_quantisation():
    fp8 = {"quant_method": "fp8"}
    values = {"hidden_size": 8, "quantization_config": fp8, "text_config": {"quantization_config": fp8, "head_dim": 4}}
    assert without_quantization(values) == {"hidden_size": 8, "text_config": {"head_dim": 4}}
    assert description_of(values) == {"quantization_config": fp8}
    assert quantization_of(without_quantization(values)) is None
    assert description_of({}) == {}
