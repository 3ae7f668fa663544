"""A Hugging Face folder: config.json, safetensors files with or without an index, and the other files beside them.

The header of a safetensors file is kept unchanged, so that the same file can be written again byte for byte.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from model.errors import UserError
from model.families.quantization import KEYS, MODELOPT_FILE
from model.families.regions import select
from train.files.files import atomic_folder, atomic_write, cannot_read, drop_cached, read_json, sync_written
from train.files.paths import AnyPath, require_utf8
from train.files.remote import convert_read_errors
from train.parallel.memory import Memory, copy, threads

INDEX = "model.safetensors.index.json"
DTYPES: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}
DTYPES |= {"BOOL": np.bool_, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
DTYPES |= {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
DTYPES |= {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu}
Positions = Sequence[np.ndarray]  # for each axis of a tensor, positions in increasing order
BLOCK_BYTES = 8 << 20  # bytes that are read, or converted and written, at a time
# Bytes of a system call. For more of them the system takes larger pages into its cache of files, which a virtual
# machine may first have to get from its host: a quarter of the speed (tests/benchmarks/README.md).
WRITE_BYTES = 256 << 10
SYNC_BYTES = 64 << 20  # written bytes that may wait for the disk
GIT_LFS = b"version https://git-lfs"
GGUF = "a GGUF file is read by itself: --from=FOLDER/NAME.gguf; or take the model's repository with safetensors files"
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

    @property
    def stored(self) -> tuple["StoredTensor", ...]:
        """The stored tensors that it is made of, as of a quantised tensor: itself."""
        return (self,)

    def read(self, folder: "TensorFiles", positions: Positions, dtype: Any) -> np.ndarray:
        """The entries at these positions of the axes, in the stored format, whatever the wanted one is."""
        return folder.read(self, positions)


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
        with open(path, "rb") as file:
            if file.read(len(GIT_LFS)) == GIT_LFS:
                raise UserError(
                    f"{path} is a pointer of Git LFS in the place of the weights; get these with `git lfs pull` there"
                ) from None
        raise UserError(f"{path} is no safetensors file, or a damaged one: {error}; get it again") from None
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
        raise UserError(f"{path} is no safetensors file, or a damaged one: it has no header; get it again") from None
    if len(header.content) + max(ends, default=0) != length:
        raise UserError(f"{path} is damaged: it has {length:,} bytes, and its header says otherwise; get it again")
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
    """Writes a file with this header, tensor by tensor, and yields each tensor.

    While some rows of a tensor are written, the next ones are converted.
    """
    with atomic_write(folder / header.file) as file, concurrent.futures.ThreadPoolExecutor(1) as writer:
        file.write(header.content)
        writes: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        memories, unsynced = itertools.cycle([Memory(), Memory()]), 0

        def write(block: memoryview) -> None:
            nonlocal unsynced
            for first in range(0, len(block), WRITE_BYTES):
                file.write(block[first : first + WRITE_BYTES])
            unsynced += len(block)
            if unsynced >= SYNC_BYTES:  # the disk is busy too while tensors are converted
                sync_written(file)
                unsynced = 0

        for stored in header.tensors:
            x = tensor(stored)
            assert x.shape == stored.shape, stored
            for rows in _blocks(x, BLOCK_BYTES):
                if len(writes) == 2:  # the other one may still be under way
                    writes.popleft().result()
                dtype = np.dtype(DTYPES[stored.dtype])
                block = next(memories).take(rows.size * dtype.itemsize)
                copy(block.view(dtype).reshape(rows.shape), rows)
                writes.append(writer.submit(write, block.data))
            yield stored
        for one in writes:
            one.result()


def _blocks(x: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yields the rows of a tensor, as many at a time as have about this many bytes."""
    if x.ndim == 0:
        yield x
        return
    count = max(1, size // max(1, x[:1].nbytes))
    for first in range(0, len(x), count):
        yield x[first : first + count]


class TensorFiles:
    """The safetensors files of a folder.

    Attributes:
      path: the folder.
      headers: the headers of the files.
      tensors: the tensors of all files, by name.
    """

    def __init__(self, path: AnyPath, headers: Sequence[Header]) -> None:
        self.path, self.headers = path, list(headers)
        self._files = {header.file: header for header in self.headers}
        self.tensors = {stored.name: stored for header in self.headers for stored in header.tensors}
        self._memory = Memory()

    def read(self, stored: StoredTensor, positions: Positions | None = None) -> np.ndarray:
        """A tensor, or its entries at these positions of its axes; no others are read.

        The array is valid until the next call. Nothing stays in memory, or mapped, for each tensor.
        """
        dtype = np.dtype(DTYPES[stored.dtype])
        offset = len(self._files[stored.file].content) + stored.begin
        positions = [np.arange(size) for size in stored.shape] if positions is None else positions
        shape = tuple(map(len, positions))
        row = math.prod(stored.shape[1:]) * dtype.itemsize
        if shape[1:] == stored.shape[1:]:  # whole rows, in as few pieces as there are
            out = self._memory.take(math.prod(shape) * dtype.itemsize)
            runs = [(0, 1)] if not shape else _runs(positions[0])
            self._read_into(stored.file, out, [(offset + first * row, (last - first) * row) for first, last in runs])
            return out.view(dtype).reshape(shape)
        return self._read_within_rows(stored, positions, offset, dtype)

    def release(self) -> None:
        """Gives back the memory of the array that was read last."""
        self._memory = Memory()

    def forget(self, stored: StoredTensor) -> None:
        """Takes a tensor out of the system's cache of files: its memory serves what is made of the tensor."""
        path, offset = self.path / stored.file, len(self._files[stored.file].content) + stored.begin
        if isinstance(path, pathlib.Path):
            with path.open("rb") as file:
                drop_cached(file, offset, stored.end - stored.begin)

    def _read_within_rows(self, stored: StoredTensor, positions: Positions, offset: int, dtype: Any) -> np.ndarray:
        """Entries that are parts of rows."""
        path = self.path / stored.file
        ends = [(int(at[0]), int(at[-1]) + 1) for at in positions]
        if isinstance(path, pathlib.Path):
            try:
                mapped = np.memmap(path, dtype, "r", offset, stored.shape)
            except OSError as error:
                raise cannot_read(path, error) from error
            box = mapped[tuple(slice(*one) for one in ends)]
        else:  # a store has no pages: the rows are read whole
            row, (first, last) = math.prod(stored.shape[1:]) * dtype.itemsize, ends[0]
            rows = self._memory.take((last - first) * row)
            self._read_into(stored.file, rows, [(offset + first * row, len(rows))])
            box = rows.view(dtype).reshape(last - first, *stored.shape[1:])
            box = box[(slice(None), *(slice(*one) for one in ends[1:]))]
        whole = [np.arange(*one) for one in ends]
        return np.array(select(box, whole, positions))

    def _read_into(self, file: str, out: np.ndarray, pieces: Iterable[tuple[int, int]]) -> None:
        """Reads pieces of a file, given by offset and length, one after the other. Raises UserError if it ends."""
        path, rest = self.path / file, out.data
        targets: list[tuple[int, memoryview]] = []
        for offset, length in pieces:
            targets.append((offset, rest[:length]))
            rest = rest[length:]
        try:
            with convert_read_errors(path), path.open("rb") as opened:
                if isinstance(path, pathlib.Path):
                    _read_blocks(path, opened.fileno(), targets)
                    return
                for offset, target in targets:
                    opened.seek(offset)
                    _fill(path, target, lambda left, _: opened.readinto(left))
        except OSError as error:
            raise cannot_read(path, error) from error


def _read_blocks(path: pathlib.Path, descriptor: int, targets: Iterable[tuple[int, memoryview]]) -> None:
    """Reads from offsets of an open file into memory, several blocks at the same time."""

    def read(offset: int, block: memoryview) -> None:
        _fill(path, block, lambda left, done: os.preadv(descriptor, [left], offset + done))

    blocks = [
        (offset + first, target[first : first + BLOCK_BYTES])
        for offset, target in targets
        for first in range(0, len(target), BLOCK_BYTES)
    ]
    if len(blocks) == 1:
        read(*blocks[0])
        return
    reads = [threads().submit(read, *block) for block in blocks]
    concurrent.futures.wait(reads)  # all, before an error of one closes the file
    for one in reads:
        one.result()


def _fill(path: AnyPath, memory: memoryview, read: Callable[[memoryview, int], int]) -> None:
    """Fills memory by calls of `read`, which gets the memory that is left, and the bytes that were read."""
    done = 0
    while done < len(memory):
        count = read(memory[done:], done)
        if not count:
            raise UserError(f"{path} ends before its last tensor; get it again")
        done += count


class HuggingFaceFolder(TensorFiles):
    """A folder that was opened for reading."""

    def __init__(self, path: AnyPath) -> None:
        """Raises UserError when it is no Hugging Face folder, or has no weights in safetensors files."""
        if not (path / "config.json").is_file():
            raise _no_folder(path)
        self.config = _read_config(path)
        super().__init__(path, [read_header(path / name) for name in _weight_files(path)])

    def other_files(self) -> list[AnyPath]:
        """The files without weights that are directly in the folder."""
        return [p for p in sorted(self.path.iterdir()) if p.is_file() and p.suffix not in OTHER_WEIGHTS]


def _read_config(folder: AnyPath) -> dict[str, Any]:
    """The values of config.json; where only modelopt's file beside it describes the quantisation, this one too."""
    config = read_json(folder / "config.json", remedy="get it again")
    if (folder / MODELOPT_FILE).is_file() and not any(config.get(key) for key in KEYS):
        beside = read_json(folder / MODELOPT_FILE, remedy="get it again", schema={"quantization?": dict})
        if (described := beside.get("quantization", {})).get("quant_algo") is not None:
            config[MODELOPT_FILE] = described
    return config


def _no_folder(path: AnyPath) -> UserError:
    """The error for a path that is no Hugging Face folder."""
    if path.name.endswith(".gguf") or (path.is_dir() and any(path.glob("*.gguf"))):
        return UserError(f"{path}: {GGUF}")
    if path.is_file():
        return UserError(f"{path} is a file; give the Hugging Face folder, with config.json and safetensors files")
    if not path.exists():
        return UserError(f"{path} does not exist; give the folder into which the model was downloaded")
    if (path / "adapter_config.json").is_file():
        return UserError(
            f"{path} holds an adapter (adapter_config.json), not a model; give the run of its model too, with --base"
        )
    return UserError(f"{path} is no Hugging Face folder: it has no config.json; download that file too")


def _weight_files(folder: AnyPath) -> list[str]:
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX, remedy="get it again", schema={"weight_map": {...: str}})
        names = sorted(set(index["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".safetensors"))
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(f"{folder} lacks files that its {INDEX} names: {listed}; download them too")
    if not names:
        if any(folder.glob("*.gguf")):
            raise UserError(f"{folder}: {GGUF}")
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        if pickles:
            raise UserError(
                f"{folder} has its weights in {', '.join(pickles)}: pickle files, which can run any code when "
                "they are opened, so they are not read; take the safetensors files of the same model, or load it "
                "once with transformers where that is safe and save it with save_pretrained"
            )
        raise UserError(f"{folder} has no *.safetensors file; download the weights too")
    return names


def _runs(positions: np.ndarray) -> list[tuple[int, int]]:
    """The first position of each run of consecutive positions, and the one after its last."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    starts, ends = positions[[0, *breaks]], positions[[*(breaks - 1), -1]] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


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
