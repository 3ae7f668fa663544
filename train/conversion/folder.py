"""A Hugging Face folder: config.json, safetensors files with or without an index, and the other files beside them.

The header of a safetensors file is kept unchanged, so that the same file can be written again byte for byte.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from model.errors import UserError
from train.files.files import atomic_folder, atomic_write, cannot_read, read_json
from train.files.paths import AnyPath, require_utf8
from train.files.remote import convert_read_errors

INDEX = "model.safetensors.index.json"
DTYPES: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}
DTYPES |= {"BOOL": np.bool_, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
DTYPES |= {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
# Weights in formats that are not read here; they are not copied with the other files.
OTHER_WEIGHTS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """The description of a tensor in a header."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a safetensors file: its bytes, and the tensors in the order of the file."""

    file: str
    content: bytes

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """The tensors, in the order of the file."""
        described = json.loads(self.content[8:])
        described.pop("__metadata__", None)
        found = [
            StoredTensor(name, self.file, about["dtype"], tuple(about["shape"]), *about["data_offsets"])
            for name, about in described.items()
        ]
        return tuple(sorted(found, key=lambda tensor: (tensor.begin, tensor.end)))


def read_header(path: AnyPath) -> Header:
    """The header of a file. Raises UserError when it is no safetensors file, is damaged, or cannot be read."""
    if not isinstance(path, pathlib.Path):
        return _header_in_store(path)
    try:
        with safetensors.safe_open(path, framework="numpy"), open(path, "rb") as file:  # safe_open checks the file
            size = file.read(8)
            return Header(path.name, size + file.read(int.from_bytes(size, "little")))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is no safetensors file, or a damaged one: {error}") from None
    except OSError as error:
        raise cannot_read(path, error) from error


def _header_in_store(path: epath.Path) -> Header:
    """The header of a file in a store; reads only the header."""
    with convert_read_errors(path):
        length = path.stat().length
        with path.open("rb") as file:
            size = file.read(8)
            header_bytes = int.from_bytes(size, "little")
            header = Header(path.name, size + file.read(header_bytes if header_bytes <= length else 0))
    try:
        ends = [tensor.end for tensor in header.tensors]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no safetensors file, or a damaged one: it has no header") from None
    if len(header.content) + max(ends, default=0) != length:
        raise UserError(f"{path} is damaged: it has {length} bytes, and its header says otherwise")
    return header


def make_header(file: str, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> Header:
    """The header of a new file that holds tensors, given by name, dtype and shape, in this order."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[dtype]).itemsize
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return Header(file, len(text).to_bytes(8, "little") + text)


def write_tensors(
    folder: pathlib.Path, header: Header, tensor: Callable[[StoredTensor], np.ndarray]
) -> Iterator[StoredTensor]:
    """Writes a file with this header, tensor by tensor, and yields each written tensor."""
    with atomic_write(folder / header.file) as file:
        file.write(header.content)
        for stored in header.tensors:
            x = np.ascontiguousarray(tensor(stored), dtype=DTYPES[stored.dtype])
            assert x.shape == stored.shape, stored
            file.write(x.reshape(-1).view(np.uint8).data)
            yield stored


class HuggingFaceFolder:
    """A folder that was opened for reading."""

    def __init__(self, path: AnyPath) -> None:
        """Raises UserError when it is no Hugging Face folder, or has no weights in safetensors files."""
        self.path = path
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is no Hugging Face folder: it has no config.json")
        self.config = read_json(path / "config.json", remedy="get it again")
        self.headers = [read_header(path / name) for name in self._weight_files()]
        self._files = {header.file: header for header in self.headers}
        self.tensors = {stored.name: stored for header in self.headers for stored in header.tensors}

    def _weight_files(self) -> list[str]:
        if (self.path / INDEX).is_file():
            index = read_json(self.path / INDEX, remedy="get it again", schema={"weight_map": {...: str}})
            names = sorted(set(index["weight_map"].values()))
        else:
            names = sorted(path.name for path in self.path.iterdir() if path.name.endswith(".safetensors"))
        missing = [name for name in names if not (self.path / name).exists()]
        if missing:
            raise UserError(f"{self.path} lacks files that its {INDEX} names: {', '.join(missing)}")
        if not names:
            pickles = sorted(path.name for path in self.path.glob("*.bin"))
            if pickles:
                raise UserError(
                    f"{self.path} has its weights in {', '.join(pickles)}: pickle files, which can run any code when "
                    "they are opened, so they are not read; take the safetensors files of the same model, or load it "
                    "once with transformers where that is safe and save it with save_pretrained"
                )
            raise UserError(f"{self.path} has no *.safetensors file")
        return names

    def other_files(self) -> list[AnyPath]:
        """The files without weights that are directly in the folder."""
        return [p for p in sorted(self.path.iterdir()) if p.is_file() and p.suffix not in OTHER_WEIGHTS]

    def read(self, stored: StoredTensor) -> np.ndarray:
        """A tensor. No other part of its file is read into memory or stays mapped."""
        offset = len(self._files[stored.file].content) + stored.begin
        dtype, count = DTYPES[stored.dtype], math.prod(stored.shape)
        path = self.path / stored.file
        if isinstance(path, pathlib.Path):
            return np.fromfile(path, dtype, count, offset=offset).reshape(stored.shape)
        with convert_read_errors(path), path.open("rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(stored.end - stored.begin), dtype, count).reshape(stored.shape)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder to fill; it gets its name when it is complete. An interrupted call leaves no folder of that name.

    Raises UserError when the path exists and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already; give another one, or delete it")
    require_utf8(path)
    if not path.name or path.name == "..":
        raise UserError(f"{path} is no name for a new folder; give it one, such as {path / 'mine'}")
    with contextlib.ExitStack() as stack:
        try:
            part = stack.enter_context(atomic_folder(path))
        except OSError as error:
            raise UserError(f"cannot make the folder {path}: {error.strerror}; name another one") from None
        yield part
