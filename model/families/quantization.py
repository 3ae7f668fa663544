"""How a config.json says that its weights are quantised: the methods that are read, and a line for any other."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from model.errors import UserError
from model.families.config_json import MEND, as_json

# The file beside config.json in which early releases of modelopt describe the quantisation, and they alone.
MODELOPT_FILE = "hf_quant_config.json"
# Keys of config.json, or of the language model's object in it, that describe the quantisation; the last one stands for
# that file.
KEYS = ("quantization_config", "compression_config", "quantization", MODELOPT_FILE)
READ = "fp8, fbgemm_fp8, mxfp4, gptq, awq, and fp8 of compressed-tensors and modelopt"
# Formats of compressed-tensors whose weights are stored one by one, as 8-bit floats.
FLOAT_FORMATS = ("float-quantized", "naive-quantized")
REMEDIES = {
    "bitsandbytes": "load it with transformers where bitsandbytes runs, call model.dequantize(), and save it with "
    "save_pretrained",
    "mlx": "undo it with mlx_lm.convert --dequantize",
}
# How names of tensors end that belong to a method, for files whose config.json does not say it.
METHOD_OF_TENSORS = {
    "qweight": "GPTQ or AWQ without a quantization_config in config.json",
    "absmax": "bitsandbytes (4 bits)",
    "SCB": "bitsandbytes (8 bits)",
    "weight_packed": "compressed-tensors pack-quantized",
}
# Keys by which a description that does not name its method is known.
METHOD_OF_KEYS = {
    "bitsandbytes": {"load_in_4bit", "load_in_8bit"},
    "gptq": {"bits", "desc_act"},
    "awq": {"w_bit", "q_group_size"},
    "mlx": {"bits", "group_size"},
}
OTHER_REMEDY = "undo it with the library that quantised it, and save the model in bfloat16"


@dataclasses.dataclass(frozen=True)
class Packing:
    """How numbers of few bits stand in words of 32 bits.

    Attributes:
      bits: of a number.
      is_awq: whether in the way of AWQ, or of GPTQ.
      zero_offset: what is added to a stored zero.
    """

    bits: int
    is_awq: bool = False
    zero_offset: int = 0


@dataclasses.dataclass(frozen=True)
class Quantization:
    """A method that is read.

    Attributes:
      method: its name, for messages.
      block: the rows and columns that share a scale, where config.json says so.
      rounds_like_scale: whether a product of weight and scale is rounded to the scale's format.
      packing: of weights of few bits; None for others.
    """

    method: str
    block: tuple[int, int] | None = None
    rounds_like_scale: bool = False
    packing: Packing | None = None


def quantization_of(values: Mapping[str, Any]) -> Quantization | None:
    """Returns the quantisation that a config.json describes; None if it describes none.

    Raises UserError, a line, for a method that is not read.
    """
    for path, described in _descriptions(values):
        found = _quantization(described)
        if isinstance(found, Quantization):
            return found
        raise not_read(path if path == MODELOPT_FILE else f"config.json: {path}", found)
    return None


def method_not_read(values: Mapping[str, Any]) -> str | None:
    """Returns the name of the method, where a config.json describes one that is not read."""
    found = next((_quantization(described) for _, described in _descriptions(values)), None)
    return found if isinstance(found, str) else None


def not_read(where: str, method: str) -> UserError:
    """Returns the error, a line, for weights that are quantised with a method that is not read."""
    remedy = REMEDIES.get(method.split(" ")[0], OTHER_REMEDY)
    return UserError(
        f"{where}: weights quantised with {method} are not read: take the model's repository that is not quantised, or "
        f"{remedy}; the methods that are read: {READ}"
    )


def method_of_tensors(names: Iterable[str]) -> str | None:
    """Returns the method, not read, whose tensors have such names, where config.json does not say it."""
    ends = {name.rpartition(".")[2] for name in names}
    return next((method for end, method in METHOD_OF_TENSORS.items() if end in ends), None)


def description_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config.json that describe the quantisation of its weights, under one key."""
    described = next((described for _, described in _descriptions(values)), None)
    return {} if described is None else {KEYS[0]: dict(described)}


def without_quantization(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config.json that describe its model, not the quantisation of its weights."""
    plain = {key: value for key, value in values.items() if key not in KEYS}
    if isinstance(inner := plain.get("text_config"), Mapping):
        plain["text_config"] = {key: value for key, value in inner.items() if key not in KEYS}
    return plain


def _descriptions(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the path and the values of each description, the outermost first."""
    for path, holder in (("", values), ("text_config.", values.get("text_config"))):
        for key in KEYS:
            described = holder.get(key) if isinstance(holder, Mapping) else None
            if described is not None and not isinstance(described, Mapping):
                raise UserError(f"config.json: {path}{key} is no object; {MEND}")
            if described:
                yield f"{path}{key}", described


def _quantization(described: Mapping[str, Any]) -> Quantization | str:
    """Returns the method that is read, or the name of the one that is not."""
    method, algorithm = described.get("quant_method"), described.get("quant_algo")
    if method is None:
        if algorithm is None and not described.get("config_groups"):
            return _method_by_keys(described)
        method = "compressed-tensors" if algorithm is None else "modelopt"
    if algorithm is not None:  # of modelopt, also where its files call the method fp8
        return Quantization("modelopt fp8") if algorithm == "FP8" else f"modelopt {algorithm}"
    if method == "fp8":
        return Quantization("fp8", _block(described.get("weight_block_size")))
    if method in ("fbgemm_fp8", "mxfp4"):
        return Quantization(method)
    if method == "compressed-tensors":
        return _compressed_tensors(described)
    if method in ("gptq", "awq"):
        return _packed(method, described)
    return f"{method}{_bits(described)}"


def _packed(method: str, described: Mapping[str, Any]) -> Quantization | str:
    """The same for GPTQ and AWQ, whose files come in several layouts."""
    bits = described.get("bits", described.get("w_bit", 4))
    key = "checkpoint_format" if method == "gptq" else "version"
    layout = str(described.get(key) or ("gptq" if method == "gptq" else "gemm")).lower()
    if layout not in ("gptq", "gptq_v2", "gemm"):
        return f"{method} in the layout {layout}"
    if bits not in ((2, 4, 8) if method == "gptq" else (4,)):
        return f"{method} ({bits} bits)"
    return Quantization(method, packing=Packing(bits, method == "awq", int(layout == "gptq")))


def _method_by_keys(described: Mapping[str, Any]) -> str:
    """The name of the method of a description that gives none, as early ones do, by the keys that it alone has."""
    named = (method for method, keys in METHOD_OF_KEYS.items() if keys <= described.keys())
    return next(named, "a method without a name") + _bits(described)


def _compressed_tensors(described: Mapping[str, Any]) -> Quantization | str:
    """The same for compressed-tensors, whose groups of layers may have different formats."""
    if (sparsity := _object(described, "sparsity_config").get("format", "dense")) != "dense":
        return f"compressed-tensors {sparsity}"
    if _object(described, "transform_config").get("config_groups"):
        return "compressed-tensors with a transform_config (rotated weights)"
    blocks = set()
    groups = _object(described, "config_groups")
    for group in (_object(groups, name) for name in groups):
        weights, given = _object(group, "weights"), group.get("format") or described.get("format")
        if given not in FLOAT_FORMATS or (weights.get("type"), weights.get("num_bits")) != ("float", 8):
            return f"compressed-tensors {given}{_bits({'bits': weights.get('num_bits')})}"
        blocks.add(_block(weights.get("block_structure")))
    if len(blocks) != 1:
        return "compressed-tensors with groups of different blocks" if blocks else "compressed-tensors without groups"
    return Quantization("compressed-tensors fp8", blocks.pop(), rounds_like_scale=True)


def _block(size: Any) -> tuple[int, int] | None:
    """The rows and columns of a block; None where config.json names none. Raises UserError for anything else."""
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        wanted = f"expected two numbers above 0; {MEND}"
        raise UserError(f"config.json: the block of weights that share a scale is {as_json(size)}, {wanted}")
    return size[0], size[1]


def _object(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key, empty where there is none. Raises UserError for anything else."""
    found = holder.get(key) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"config.json: {key} in the description of the quantisation is no object; {MEND}")
    return found


def _bits(described: Mapping[str, Any]) -> str:
    bits = (
        described.get("bits")
        or described.get("w_bit")
        or next((n for n in (4, 8) if described.get(f"load_in_{n}bit")), None)
    )
    return f" ({bits} bits)" if bits else ""
