"""GPTQ and AWQ: numbers by loops over the definition of the format, parts of them, and whole folders."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.families.quantization import Packing, quantization_of
from model.parameters.names import flatten
from tests.train.conversion.folders import published
from train.conversion.folder import HuggingFaceFolder
from train.conversion.packed import packed_tensors
from train.conversion.reading import read_published
from train.run.loading import load_run

METHODS = {
    "GPTQ": ({"quant_method": "gptq", "bits": 4, "group_size": 16}, False),
    "GPTQ, in the order of activations": ({"quant_method": "gptq", "bits": 4, "group_size": 16}, True),
    "GPTQ of 8 bits": ({"quant_method": "gptq", "bits": 8, "group_size": 8}, False),
    "GPTQ, version 2": ({"quant_method": "gptq", "bits": 4, "group_size": 16, "checkpoint_format": "gptq_v2"}, False),
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm"}, False),
}


def word(numbers, bits):
    """A word of 32 bits, the first number in its lowest bits."""
    return np.array(sum(int(n) << bits * k for k, n in enumerate(numbers)), np.uint32).view(np.int32)


def packed(shape, described, by_activation, seed):
    """The tensors that stand in the place of a weight (outputs, inputs), and its numbers, by loops."""
    draw, (outputs, inputs), bits = np.random.default_rng(seed), shape, described["bits"]
    groups, count = -(-inputs // described["group_size"]), 32 // bits
    codes = draw.integers(0, 2**bits, (inputs, outputs))
    zeros = draw.integers(1, 2**bits, (groups, outputs))
    scales = draw.uniform(0.01, 0.1, (groups, outputs)).astype(np.float16)
    group_of = np.arange(inputs) // described["group_size"]
    if by_activation:
        group_of = draw.permutation(group_of)
    weight = np.empty(shape, np.float32)
    for o in range(outputs):
        for i in range(inputs):
            g = group_of[i]
            weight[o, i] = np.float32(scales[g, o]) * np.float32(codes[i, o] - zeros[g, o])
    tensors = {"scales": scales}
    if described["quant_method"] == "awq":
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        rows = lambda x: [[word([row[8 * c + k] for k in order], 4) for c in range(outputs // 8)] for row in x]  # noqa: E731
        return weight, tensors | {"qweight": np.array(rows(codes)), "qzeros": np.array(rows(zeros))}
    stored = zeros if described.get("checkpoint_format") == "gptq_v2" else zeros - 1
    columns = [
        [word(codes[count * r : count * (r + 1), o], bits) for o in range(outputs)] for r in range(inputs // count)
    ]
    of_zeros = [[word(row[count * c : count * (c + 1)], bits) for c in range(outputs // count)] for row in stored]
    tensors |= {"qweight": np.array(columns), "qzeros": np.array(of_zeros), "g_idx": group_of.astype(np.int32)}
    return weight, tensors


def is_packed(name, x):
    """Whether a tensor is packed: a whole number of words."""
    return "_proj.weight" in name and x.shape[0] % 8 == 0


def packed_folder(tmp_path, name):
    """A published LLaMA whose projections are packed, and its tensors as numbers."""
    described, by_activation = METHODS[name]
    folder = published(tmp_path, num_attention_heads=4, quantization_config=described, dtype="float16")
    plain, stored = load_file(folder / "model.safetensors"), {}
    for seed, (tensor, x) in enumerate(plain.items()):
        if is_packed(tensor, x):
            plain[tensor], parts = packed(x.shape, described, by_activation, seed)
            stored |= {f"{tensor.removesuffix('weight')}{part}": y for part, y in parts.items()}
        else:
            stored[tensor] = x
    save_file(stored, folder / "model.safetensors")
    return folder, plain


@pytest.mark.parametrize("name", METHODS)
def test_numbers_are_those_of_the_formats_definition(name, tmp_path):
    folder, plain = packed_folder(tmp_path, name)
    opened = HuggingFaceFolder(folder)
    found, problems = packed_tensors(opened.tensors, quantization_of(opened.config).packing)
    assert not problems
    assert found.keys() == {tensor for tensor, x in plain.items() if is_packed(tensor, x)}
    for tensor, packed_tensor in found.items():
        assert packed_tensor.shape == plain[tensor].shape
        whole = [np.arange(size) for size in packed_tensor.shape]
        np.testing.assert_array_equal(packed_tensor.read(opened, whole, np.float32), plain[tensor], err_msg=tensor)
        part = [at[len(at) // 3 :: 2] for at in whole]
        np.testing.assert_array_equal(packed_tensor.read(opened, part, np.float32), plain[tensor][np.ix_(*part)])


@pytest.mark.parametrize("name", ["GPTQ, in the order of activations", "AWQ"])
def test_a_run_has_these_numbers(name, tmp_path):
    folder, plain = packed_folder(tmp_path, name)
    read_published(folder, tmp_path / "packed", parameter_dtype="float32")
    values = json.loads((folder / "config.json").read_text())
    del values["quantization_config"]
    (folder / "config.json").write_text(json.dumps(values))
    save_file(plain, folder / "model.safetensors")
    read_published(folder, tmp_path / "plain", parameter_dtype="float32")
    one, other = (flatten(load_run(tmp_path / run).params) for run in ("packed", "plain"))
    assert one.keys() == other.keys()
    for path, x in one.items():
        np.testing.assert_array_equal(x, other[path], err_msg=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("qzeros"), "q_proj.qzeros is missing beside q_proj.qweight"),
        (lambda x: x.pop("scales"), "q_proj.scales is missing beside q_proj.qweight"),
        (lambda x: x.update(qweight=x["qweight"].astype(np.int64)), "q_proj.qweight is I64 2x16, expected I32 2x16"),
        (lambda x: x.update(qzeros=x["qzeros"][:, :1]), "q_proj.qzeros is I32 1x1, and q_proj.scales 1x16"),
        (lambda x: x.update(g_idx=x["g_idx"][:3]), "q_proj.g_idx is 3, expected 16"),
        (
            lambda x: (x.pop("g_idx"), x.update(scales=np.ones((3, 16), np.float16), qzeros=np.ones((3, 2), np.int32))),
            "q_proj.scales has 3 groups, which 16 inputs do not fill",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(change, message, tmp_path):
    _, parts = packed((16, 16), METHODS["GPTQ"][0], False, 0)
    change(parts)
    folder = published(tmp_path)
    save_file({f"q_proj.{name}": np.ascontiguousarray(x) for name, x in parts.items()}, folder / "model.safetensors")
    found, problems = packed_tensors(HuggingFaceFolder(folder).tensors, Packing(4, zero_offset=1))
    assert not found
    assert problems == [message]


def test_a_folder_that_is_not_whole_is_refused(tmp_path):
    folder, _ = packed_folder(tmp_path, "AWQ")
    stored = load_file(folder / "model.safetensors")
    del stored["model.layers.0.mlp.up_proj.scales"]
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(UserError, match="layers.0.mlp.up_proj.scales is missing beside"):
        read_published(folder, tmp_path / "run")
