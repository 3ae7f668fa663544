"""RUN/origin; tests/train/conversion/test_quantized.py has quantised folders, test_writing.py all others."""

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

from model.families.quantization import quantization_of
from tests.train.conversion.folders import contents, published
from tests.train.conversion.test_quantized import quantize, write_file
from train.conversion.language_model import LanguageModelFolder
from train.conversion.origin import (
    BUFFERS,
    HEADER,
    QUANTIZATION,
    buffers,
    copy_origin,
    headers_of,
    was_quantized,
    write_origin,
)
from train.conversion.quantized import quantized_tensors


def test_all_but_the_weights(tmp_path):
    folder = LanguageModelFolder(published(tmp_path))
    weights = dict(folder.tensors)
    norm = weights.pop("model.norm.weight")
    write_origin(folder, list(weights.values()), [norm], "bfloat16", tmp_path / "origin")
    names = {"README.md", "config.json", "tokenizer.json", BUFFERS, "model.safetensors" + HEADER}
    assert contents(tmp_path / "origin").keys() == names
    assert load_file(tmp_path / "origin" / BUFFERS).keys() == {"model.norm.weight"}
    kept = buffers(tmp_path / "origin")
    assert [each.file for each in headers_of(tmp_path / "origin")] == [each.file for each in folder.headers]
    np.testing.assert_array_equal(kept.read(kept.tensors["model.norm.weight"]), folder.read(norm))
    (tmp_path / "back").mkdir()
    headers = copy_origin(tmp_path / "origin", tmp_path / "back")
    assert [header.content for header in headers] == [header.content for header in folder.headers]
    assert contents(tmp_path / "back").keys() == {"README.md", "config.json", "tokenizer.json"}
    assert was_quantized(tmp_path / "origin") is None
    (tmp_path / "origin" / BUFFERS).unlink()
    assert buffers(tmp_path / "origin").tensors == {}


def test_quantised_tensors_that_hold_no_weights_are_kept_unquantised(tmp_path):
    """As the layers for multi-token prediction in DeepSeek-V3's files."""
    path = published(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [8, 6]})
    codes, scale, expected = quantize(np.random.default_rng(0).normal(size=(16, 24)), (8, 6))
    plain = load_file(path / "model.safetensors")
    write_file(path, plain | {"mtp.weight": codes, "mtp.weight_scale_inv": scale})
    folder = LanguageModelFolder(path)
    found, _, _ = quantized_tensors(folder.tensors, quantization_of(folder.config))
    weights = [stored for name, stored in folder.tensors.items() if name in plain]
    write_origin(folder, weights, list(found.values()), "bfloat16", tmp_path / "origin")
    assert was_quantized(tmp_path / "origin") == "fp8"
    assert (tmp_path / "origin" / QUANTIZATION).is_file()
    kept = load_file(tmp_path / "origin" / BUFFERS)
    np.testing.assert_array_equal(kept["mtp.weight"], expected.astype(ml_dtypes.bfloat16))
    (tmp_path / "back").mkdir()
    (header,) = copy_origin(tmp_path / "origin", tmp_path / "back")
    described = {tensor.name: tensor.dtype for tensor in header.tensors}
    assert described == {name: folder.tensors[name].dtype for name in plain} | {"mtp.weight": "BF16"}
    assert not (tmp_path / "back" / QUANTIZATION).exists()
