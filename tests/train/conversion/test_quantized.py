"""Quantised tensors: against the libraries' numbers, against loops, and as whole folders, read and written back."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.families import family_of
from model.families.quantization import Quantization, quantization_of
from tests.parity import quantized
from tests.parity.quantized import CASES, FIXTURE, digest, ours
from tests.train.conversion.folders import contents, published
from train import experiment as experiments
from train.conversion.folder import DTYPES, INDEX, HuggingFaceFolder, StoredTensor, make_header, write_tensors
from train.conversion.quantized import quantized_tensors
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.run.loading import load_params

FP8 = ml_dtypes.float8_e4m3fn


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_of_the_libraries_to_the_bit(case):
    recorded = json.loads(FIXTURE.read_text())
    for dtype in (np.float32, ml_dtypes.bfloat16):
        assert digest(ours(case, dtype)) == recorded[f"{case}, {np.dtype(dtype).name}"]


@pytest.mark.parametrize("case", ["fp8 blocks, the last ones cut", "fp8 blocks, experts in one tensor", "mxfp4"])
def test_a_part_is_that_part_of_the_whole(case, monkeypatch):
    whole = ours(case, np.float32)
    positions = [np.arange(n)[n // 3 :: 2] for n in whole.shape]
    found = _read_part(case, positions, monkeypatch)
    np.testing.assert_array_equal(found, whole[np.ix_(*positions)])


def _read_part(case, positions, monkeypatch):
    """`ours`, at these positions."""

    class AtPositions:
        def __init__(self, tensor):
            self.tensor, self.shape = tensor, tensor.shape

        def read(self, files, whole, dtype):
            return self.tensor.read(files, positions, dtype)

    plain = quantized.quantized_tensors

    def wrapped(*arguments):
        found, left_out, problems = plain(*arguments)
        return {name: AtPositions(tensor) for name, tensor in found.items()}, left_out, problems

    monkeypatch.setattr(quantized, "quantized_tensors", wrapped)
    return quantized.ours(case, np.float32)


def write_file(folder, tensors):
    """Writes model.safetensors, in formats that the library's NumPy interface has not."""
    formats = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    described = [(name, formats[x.dtype], x.shape) for name, x in tensors.items()]
    for _ in write_tensors(folder, make_header("model.safetensors", described), lambda stored: tensors[stored.name]):
        pass


def quantize(x, block):
    """8-bit weights, a scale for each block, and their products by a loop."""
    x = x.astype(np.float32)
    rows, columns = block
    grid = -(-x.shape[0] // rows), -(-x.shape[1] // columns)
    scale, codes, product = np.empty(grid, np.float32), np.empty(x.shape, FP8), np.empty(x.shape, np.float32)
    for i in range(grid[0]):
        for j in range(grid[1]):
            at = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            scale[i, j] = np.abs(x[at]).max() / 448
            codes[at] = (x[at] / scale[i, j]).astype(FP8)
            product[at] = codes[at].astype(np.float32) * scale[i, j]
    return codes, scale, product.astype(ml_dtypes.bfloat16)


def quantized_folder(tmp_path, block=(8, 6), end="_scale_inv", extra=(), **config):
    """A published LLaMA whose projections are quantised; also its tensors without quantisation."""
    described = {"quant_method": "fp8", "weight_block_size": block}
    folder = published(tmp_path, **{"dtype": "bfloat16", "quantization_config": described} | config)
    plain = load_file(folder / "model.safetensors")
    stored = {}
    for name, x in plain.items():
        if "_proj.weight" in name:
            codes, scale, plain[name] = quantize(x, block)
            stored |= {name: codes, name + end: scale}
            stored |= {name.removesuffix("weight") + one: np.ones(1, np.float32) for one in extra}
        else:
            stored[name] = x
    write_file(folder, stored)
    return folder, plain


def test_a_folder_is_read_and_written_back_unquantised(tmp_path, capsys):
    folder, plain = quantized_folder(tmp_path, extra=("input_scale",))
    (folder / "hf_quant_config.json").write_text("{}")
    weight_map = dict.fromkeys(HuggingFaceFolder(folder).tensors, "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    read_published(folder, tmp_path / "run")
    assert "weights in fp8: they become bfloat16, and are written back so, without" in capsys.readouterr().err
    assert experiments.load(tmp_path / "run").model.precision.parameters == "bfloat16"
    write_published(tmp_path / "run", tmp_path / "back")
    assert "was read from weights in fp8: " in capsys.readouterr().err
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert written.keys() == plain.keys()
    for name, x in plain.items():
        np.testing.assert_array_equal(written[name], x, err_msg=name)
    files = contents(tmp_path / "back")
    assert files.keys() == contents(folder).keys() - {"hf_quant_config.json"}
    assert json.loads(files["config.json"]) == {
        key: value
        for key, value in json.loads((folder / "config.json").read_text()).items()
        if key != "quantization_config"
    }
    assert json.loads(files[INDEX])["weight_map"] == dict.fromkeys(plain, "model.safetensors")
    # These files are unquantised ones like any other: they are read, and written back to the byte.
    read_published(tmp_path / "back", tmp_path / "again")
    write_published(tmp_path / "again", tmp_path / "twice")
    assert contents(tmp_path / "twice") == files


def test_modelopts_file_counts_where_config_json_names_no_quantisation(tmp_path, capsys):
    whole = (24, 24)  # one scale a tensor
    folder, plain = quantized_folder(tmp_path, whole, "_scale", extra=("input_scale",), quantization_config=None)
    beside = folder / "hf_quant_config.json"
    beside.write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}))
    read_published(folder, tmp_path / "run")
    assert "weights in modelopt fp8: they become bfloat16" in capsys.readouterr().err
    write_published(tmp_path / "run", tmp_path / "back")
    assert not (tmp_path / "back" / beside.name).exists()
    for name, x in load_file(tmp_path / "back" / "model.safetensors").items():
        np.testing.assert_array_equal(x, plain[name], err_msg=name)
    beside.write_text(json.dumps({"quantization": {"quant_algo": "NVFP4", "group_size": 16}}))
    with pytest.raises(UserError, match="^hf_quant_config.json: weights quantised with modelopt NVFP4 are not read"):
        read_published(folder, tmp_path / "other")
    beside.write_text(json.dumps({"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}))
    assert quantization_of(HuggingFaceFolder(folder).config) is None


def test_experts_in_mxfp4(tmp_path):
    folder = published(
        tmp_path, "gpt_oss", quantization_config={"quant_method": "mxfp4"}, hidden_size=32, intermediate_size=32
    )
    about = json.loads((folder / "config.json").read_text())
    family = family_of(about)
    config = family.model_config(about)
    draw, stored, plain = np.random.default_rng(0), {}, {}
    for name, tensor in family.tensors(config).items():
        if name.endswith("_proj"):
            experts, inner, features = tensor.shape
            codes = draw.integers(0, 16, (experts, features, inner))
            exponents = draw.integers(118, 124, (experts, features, inner // 32)).astype(np.uint8)
            values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
            x = np.empty((experts, inner, features), np.float32)
            for e, f, d in np.ndindex(experts, features, inner):
                x[e, d, f] = values[codes[e, f, d]] * 2.0 ** (int(exponents[e, f, d // 32]) - 127)
            pairs = codes.reshape(experts, features, inner // 32, 16, 2)
            stored[name + "_blocks"] = (pairs[..., 0] | pairs[..., 1] << 4).astype(np.uint8)
            stored[name + "_scales"] = exponents
        else:
            x = stored[name] = draw.normal(size=tensor.shape).astype(ml_dtypes.bfloat16)
        plain[name] = x
    write_file(folder, stored)
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    written = load_file(tmp_path / "back" / "model.safetensors")
    for name, x in plain.items():
        np.testing.assert_array_equal(written[name].astype(np.float32), x.astype(np.float32), err_msg=name)


def test_a_float32_model_gets_the_products_as_they_are(tmp_path):
    folder, _ = quantized_folder(tmp_path, dtype="float32")
    read_published(folder, tmp_path / "run")
    query = load_params(tmp_path / "run").params["blocks"]["mixer"]["query"]
    stored = HuggingFaceFolder(folder)
    codes = stored.read(stored.tensors["model.layers.1.self_attn.q_proj.weight"]).astype(np.float32)
    scale = stored.read(stored.tensors["model.layers.1.self_attn.q_proj.weight_scale_inv"])
    product = codes * np.repeat(np.repeat(scale, 8, 0), 6, 1)[: codes.shape[0], : codes.shape[1]]
    np.testing.assert_array_equal(np.asarray(query)[1].reshape(codes.shape[1], -1), product.T)


def test_what_is_missing_or_of_another_shape_is_named(tmp_path):
    folder, _ = quantized_folder(tmp_path)
    files = HuggingFaceFolder(folder)
    tensors = {name: files.read(stored).copy() for name, stored in files.tensors.items()}
    del tensors["model.layers.0.self_attn.q_proj.weight_scale_inv"]
    layer = "model.layers.1.mlp."
    tensors[layer + "up_proj.weight_scale_inv"] = np.ones((2, 2), np.float32)
    tensors[layer + "down_proj.weight"] = np.ones((16, 24), ml_dtypes.bfloat16)
    write_file(folder, tensors)
    with pytest.raises(UserError) as error:
        read_published(folder, tmp_path / "run")
    for line in (
        "q_proj.weight is F8_E4M3, and its scale model.layers.0.self_attn.q_proj.weight_scale_inv or "
        "model.layers.0.self_attn.q_proj.weight_scale is missing",
        "up_proj.weight_scale_inv is 2x2, expected 3x3, one for each block of 8x6 of 24x16",
        "down_proj.weight_scale_inv is a scale, but model.layers.1.mlp.down_proj.weight is BF16, expected F8_E4M3",
    ):
        assert line in str(error.value)


def test_other_methods_are_refused_before_anything_is_read(tmp_path):
    folder = published(tmp_path, quantization_config={"quant_method": "hqq", "bits": 4})
    with pytest.raises(UserError, match=r"weights quantised with hqq \(4 bits\) are not read"):
        read_published(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(
        UserError,
        match="published: a GGUF file is read by itself: --from=FOLDER/NAME.gguf; or take the model's repository",
    ):
        read_published(folder, tmp_path / "run")


def stored_tensors(**described):
    return {name: StoredTensor(name, "f", dtype, shape, 0, 0) for name, (dtype, shape) in described.items()}


@pytest.mark.parametrize(
    ("scale", "block", "expected"),
    [
        ((), None, (24, 40)),
        ((1, 1), (128, 128), (24, 40)),
        ((24,), None, (1, 40)),
        ((24, 1), None, (1, 40)),
        ((1, 40), None, (24, 1)),
        ((3, 5), None, (8, 8)),  # config.json names no block, and the scales divide the weight
        ((3, 4), (10, 10), (10, 10)),
        ((2, 2), (10, 10), "x_scale is 2x2, expected 3x4, one for each block of 10x10 of 24x40"),
        ((7, 1), None, "x_scale is 7x1, expected one for the tensor, or one a row of 24x40"),
    ],
)
def test_which_numbers_share_a_scale(scale, block, expected):
    stored = stored_tensors(x=("F8_E4M3", (24, 40)), x_scale=("F32", scale))
    found, _, problems = quantized_tensors(stored, Quantization("fp8", block))
    assert (found["x"].block if found else problems[0]) == expected


def test_halves_of_mxfp4_that_do_not_fit():
    blocks = ("U8", (2, 6, 3, 16))
    assert quantized_tensors(stored_tensors(x_blocks=blocks), None)[2] == ["x_scales is missing beside x_blocks"]
    _, _, problems = quantized_tensors(stored_tensors(x_blocks=blocks, x_scales=("U8", (2, 6, 2))), None)
    assert problems == ["x_scales is U8 2x6x2, expected U8 2x6x3"]
    _, _, problems = quantized_tensors(stored_tensors(x_blocks=("U8", (2, 6, 3)), x_scales=("U8", (2, 6))), None)
    assert problems == ["x_blocks is U8 2x6x3, expected U8 of 4 axes, the last of 16"]


def test_files_without_quantisation_may_have_such_names(tmp_path):
    stored = stored_tensors(x=("BF16", (4,)), x_scale=("BF16", (4,)), y_scales=("BF16", (4,)))
    assert quantized_tensors(stored, None) == ({}, set(), [])
    folder = published(tmp_path)
    before = contents(folder)
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata={"format": "pt"})
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back").keys() == before.keys()
