"""Quantised tensors against the functions that undo the quantisation in `transformers` and `compressed_tensors`.

    python -m tests.parity.quantized [--record]

Prints for each case how many numbers differ in a bit; exits with status 1 if any does. `--record` writes digests of the
libraries' numbers to tests/fixtures/quantized.json, where `make test` reads them. Needs torch, transformers and, for its cases,
compressed-tensors. fbgemm_fp8 has a kernel for GPUs alone: its case is weight times scale in float32, rounded once.
"""

import argparse
import hashlib
import importlib.util
import json
import pathlib
import sys
import tempfile

import ml_dtypes
import numpy as np

from model.families.quantization import Quantization
from tests.benchmarks.command import answer_help, require_torch
from train.conversion.folder import DTYPES, TensorFiles, make_header, read_header, write_tensors
from train.conversion.quantized import quantized_tensors

answer_help(__name__, __doc__)

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "quantized.json"
FP8, BLOCKS = "F8_E4M3", Quantization("fp8", (128, 128))
COMPRESSED = Quantization("compressed-tensors fp8", rounds_like_scale=True)
COMPRESSED_BLOCKS = Quantization("compressed-tensors fp8", (128, 128), rounds_like_scale=True)
# name: what config.json says, the shape of the weight, the name, format and shape of its scale
CASES = {
    "fp8 blocks": (BLOCKS, (256, 384), "_scale_inv", "F32", (2, 3)),
    "fp8 blocks, the last ones cut": (BLOCKS, (192, 200), "_scale_inv", "F32", (2, 2)),
    "fp8 blocks, powers of two": (BLOCKS, (256, 128), "_scale_inv", "F8_E8M0", (2, 1)),
    "fp8 blocks, exponents in bytes": (BLOCKS, (256, 128), "_scale_inv", "U8", (2, 1)),
    "fp8 blocks, experts in one tensor": (BLOCKS, (3, 128, 256), "_scale_inv", "F32", (3, 1, 2)),
    "fp8 one scale": (Quantization("fp8"), (24, 40), "_scale_inv", "BF16", ()),
    "fbgemm_fp8 rows": (Quantization("fbgemm_fp8"), (24, 40), "_scale", "F32", (24, 1)),
    "compressed-tensors rows": (COMPRESSED, (24, 40), "_scale", "BF16", (24, 1)),
    "compressed-tensors rows in float32": (COMPRESSED, (24, 40), "_scale", "F32", (24, 1)),
    "compressed-tensors one scale": (COMPRESSED, (24, 40), "_scale", "BF16", (1,)),
    "compressed-tensors blocks": (COMPRESSED_BLOCKS, (256, 200), "_scale", "BF16", (2, 2)),
    "mxfp4": (Quantization("mxfp4"), (2, 6, 3, 16), "_scales", "U8", (2, 6, 3)),
}


def tensors(case):
    """The stored tensors of a case: every code of the format, and scales of either size."""
    quantization, shape, end, scale_format, scale_shape = CASES[case]
    draw = np.random.default_rng(len(case))
    codes = draw.permutation(np.resize(np.arange(256, dtype=np.uint8), int(np.prod(shape))))
    if scale_format in ("U8", "F8_E8M0"):
        scale = draw.integers(1, 250, scale_shape).astype(np.uint8)
    else:
        scale = np.exp(draw.normal(-6, 3, scale_shape)).astype(DTYPES[scale_format])
    if quantization.method == "mxfp4":
        return {"x_blocks": ("U8", codes.reshape(shape)), "x_scales": ("U8", scale)}
    codes[codes & 127 == 127] = 0  # the codes that are no numbers
    return {"x.weight": (FP8, codes.reshape(shape)), "x.weight" + end: (scale_format, np.asarray(scale))}


def ours(case, dtype):
    """The tensor of a case in a format."""
    stored = tensors(case)
    with tempfile.TemporaryDirectory() as folder:
        header = make_header("model.safetensors", [(name, form, x.shape) for name, (form, x) in stored.items()])
        for _ in write_tensors(pathlib.Path(folder), header, lambda one: stored[one.name][1].view(DTYPES[one.dtype])):
            pass
        files = TensorFiles(pathlib.Path(folder), [read_header(pathlib.Path(folder) / "model.safetensors")])
        found, _, problems = quantized_tensors(files.tensors, CASES[case][0])
        assert not problems, problems
        (tensor,) = found.values()
        return tensor.read(files, [np.arange(n) for n in tensor.shape], dtype)


def theirs(case, dtype):
    """The same from the libraries, as bits; None where a library is not installed."""
    import torch

    quantization = CASES[case][0]
    form = {np.float32: torch.float32, ml_dtypes.bfloat16: torch.bfloat16}[dtype]
    formats = {"F8_E4M3": torch.float8_e4m3fn, "F8_E8M0": torch.float8_e8m0fnu, "U8": torch.uint8}
    formats |= {"F32": torch.float32, "BF16": torch.bfloat16}
    weight, scale = (
        torch.tensor(np.array(x).reshape(-1).view(np.uint8)).view(formats[name]).reshape(x.shape)
        for name, x in tensors(case).values()
    )
    if quantization.method == "mxfp4":
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        return _bits(convert_moe_packed_tensors(weight, scale, dtype=form))
    if quantization.rounds_like_scale:
        if importlib.util.find_spec("compressed_tensors") is None:
            return None
        from compressed_tensors.quantization import QuantizationArgs
        from compressed_tensors.quantization.lifecycle.forward import dequantize

        strategy = "block" if quantization.block else "channel" if scale.ndim > 1 else "tensor"
        block = list(quantization.block) if quantization.block else None
        args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, block_structure=block)
        return _bits(dequantize(weight, scale, args=args).to(form))
    if quantization.method == "fbgemm_fp8":
        return _bits((weight.float() * scale).to(form))
    if "cut" in case:  # the class that reads files refuses these shapes; the one for the backward pass does not
        from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

        return _bits(_dequantize_fp8_weight(weight, scale, list(quantization.block), torch.float32).to(form))
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    return _bits(Fp8Dequantize(None)._dequantize_one(weight, scale, output_dtype=form))


def digest(x):
    """A digest of the bits of an array."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def _bits(x):
    import torch

    return x.detach().contiguous().view({2: torch.uint16, 4: torch.uint32}[x.element_size()]).numpy()


def main():
    """Compares, and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    record = parser.parse_args().record
    require_torch("parity")
    worst = 0
    recorded = {}
    for case in CASES:
        for dtype in (np.float32, ml_dtypes.bfloat16):
            expected = theirs(case, dtype)
            name = f"{case}, {np.dtype(dtype).name}"
            if expected is None:
                print(f"{name:60} compressed_tensors is not installed")
                continue
            recorded[name] = digest(expected)
            found = np.ascontiguousarray(ours(case, dtype)).view(expected.dtype)
            different = int((found != expected).sum())
            worst = max(worst, different)
            print(f"{name:60} {different} of {expected.size} differ")
    if record:
        FIXTURE.write_text(json.dumps(recorded, indent=1) + "\n")
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
