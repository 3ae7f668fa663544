"""RUN/origin: all of a Hugging Face folder but its weights, so that the same files can be written again.

It has the files beside the weights, the headers of the safetensors files, and the tensors that are not weights. If
weights were quantised, its headers describe them in the run's format, its config.json and its index name no
quantisation, and a file of its own, which is not written back, keeps what config.json said.
"""

import pathlib
import shutil
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from model.families.quantization import MODELOPT_FILE, description_of, quantization_of, without_quantization
from model.parameters.precision import Dtype
from train.conversion.expert_tensors import JoinedExperts
from train.conversion.folder import (
    DTYPES,
    INDEX,
    Header,
    StoredTensor,
    TensorFiles,
    make_header,
    read_header,
    write_tensors,
)
from train.conversion.language_model import LanguageModelFolder
from train.conversion.quantized import Quantized
from train.files.files import read_json, write_json
from train.files.remote import local_copy
from train.run.conversion_record import RECORD

BUFFERS, HEADER, QUANTIZATION = "buffers.safetensors", ".header", "quantization.json"
FORMATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
Source = StoredTensor | Quantized | JoinedExperts


def write_origin(
    folder: LanguageModelFolder,
    weights: Collection[Source],
    others: Collection[Source],
    dtype: Dtype,
    into: pathlib.Path,
) -> None:
    """Writes RUN/origin.

    Args:
      folder: the Hugging Face folder.
      weights: the tensors whose values the run's parameters keep.
      others: the tensors that hold no weights.
      dtype: the format of the run's parameters, in which quantised weights are described.
      into: the folder to make.
    """
    into.mkdir()
    quantized = any(not isinstance(source, StoredTensor) for source in (*weights, *others))
    for path in folder.other_files():
        if not quantized or path.name != MODELOPT_FILE:
            shutil.copyfile(local_copy(path), into / path.name)
    folder.write_descriptions(into)
    headers = folder.headers
    if quantized:
        headers = _headers_without_quantization(folder, [*weights, *others], FORMATS[dtype])
        write_json(into / "config.json", without_quantization(folder.config))
        write_json(into / QUANTIZATION, description_of(folder.config))
        if (folder.path / INDEX).is_file():
            weight_map = {tensor.name: header.file for header in headers for tensor in header.tensors}
            total = sum(tensor.end - tensor.begin for header in headers for tensor in header.tensors)
            write_json(into / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for header in headers:
        (into / (header.file + HEADER)).write_bytes(header.content)
    if others:
        by_name = {source.name: source for source in others}
        described = [(name, _format(source, FORMATS[dtype]), source.shape) for name, source in by_name.items()]

        def tensor(stored: StoredTensor) -> np.ndarray:
            whole = [np.arange(size) for size in stored.shape]
            return by_name[stored.name].read(folder, whole, DTYPES[stored.dtype])

        for _ in write_tensors(into, make_header(BUFFERS, described), tensor):
            pass


def _headers_without_quantization(
    folder: LanguageModelFolder, sources: Collection[Source], quantized_format: str
) -> list[Header]:
    """The headers of files with the same tensors, in which the quantised ones have this format, and no scales."""
    first = {source.stored[0].name: source for source in sources}
    headers = []
    for header in folder.headers:
        here = [first[stored.name] for stored in header.tensors if stored.name in first]
        if here:
            described = [(source.name, _format(source, quantized_format), source.shape) for source in here]
            headers.append(make_header(header.file, described))
    return headers


def _format(source: Source, quantized_format: str) -> str:
    return source.dtype if isinstance(source, StoredTensor) else quantized_format


def copy_origin(origin: pathlib.Path, into: pathlib.Path) -> list[Header]:
    """Copies the files beside the weights; returns the headers of the weight files."""
    for path in sorted(origin.iterdir()):
        if not path.name.endswith(HEADER) and path.name not in (BUFFERS, QUANTIZATION, RECORD):
            shutil.copyfile(path, into / path.name)
    return headers_of(origin)


def headers_of(origin: pathlib.Path) -> list[Header]:
    """The headers of the weight files."""
    paths = [path for path in sorted(origin.iterdir()) if path.name.endswith(HEADER)]
    return [Header(path.name.removesuffix(HEADER), path.read_bytes()) for path in paths]


def buffers(origin: pathlib.Path) -> TensorFiles:
    """The tensors that hold no weights."""
    return TensorFiles(origin, [read_header(origin / BUFFERS)] if (origin / BUFFERS).is_file() else [])


def was_quantized(origin: pathlib.Path) -> str | None:
    """The method by which the published weights of a run were quantised; None if they were not."""
    if not (origin / QUANTIZATION).is_file():
        return None
    return method_of(read_json(origin / QUANTIZATION))


def method_of(values: Mapping[str, Any]) -> str:
    """The method by which weights are quantised, for messages, of a config.json."""
    found = quantization_of(values)
    return "8-bit floats" if found is None else found.method
