"""How orbax writes the arrays of a checkpoint: fewer threads compress than the machine has cores.

Compressed arrays wait in memory until they are written. With a thread on every core more is compressed than the others
can write, and nothing stops it: nearly the whole checkpoint is in memory a second time (tests/benchmarks/README.md).
"""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore

MAX_THREADS = 4  # that compress; they make about 2 GB/s
FILES = 128  # that may be written at the same time, as orbax has it
NODE_BYTES = 100_000_000  # for the index of the database, as orbax has it

# An array file has FILE_BYTES, or FILE_SHARE of all bytes if that is more. A chunk, which is compressed at a time, has
# CHUNK_BYTES, for which a thread uses the same memory again (train/process/allocator.py), or CHUNK_SHARE.
FILE_BYTES, FILE_SHARE, CHUNK_BYTES, CHUNK_SHARE = 8 << 20, 1 / 1024, 1 << 20, 1 / (1 << 15)


def chunked_save(arrays: Mapping[str, Any]) -> ocp.args.PyTreeSave:
    """A save that holds little more than a file's arrays in memory at a time: it gathers them before it writes."""
    total = sum(x.nbytes for x in arrays.values())
    save_args = {name: ocp.SaveArgs(chunk_byte_size=max(CHUNK_BYTES, int(CHUNK_SHARE * total))) for name in arrays}
    file_bytes = max(FILE_BYTES, int(FILE_SHARE * total))
    return ocp.args.PyTreeSave(dict(arrays), save_args=save_args, ocdbt_target_data_file_size=file_bytes)


def handler_registry(items: Sequence[str], compress: bool = True) -> Any:
    """The handlers of orbax, with this number of threads for the arrays of these items.

    Arrays that are not compressed are copied faster than a disk writes them, so a copy waits for the system's cache of
    files alone: then the caller must sync the files.
    """
    settings = {
        "data_copy_concurrency": {"limit": max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2))},
        "file_io_concurrency": {"limit": FILES},
        "cache_pool#ocdbt": {"total_bytes_limit": NODE_BYTES},
        "file_io_sync": compress,
    }
    arrays: Any = copy.copy(ocp.type_handlers.get_type_handler(jax.Array))
    serialize = arrays.serialize

    async def serialize_with_few_threads(values: Any, infos: Any, args: Any = None) -> Any:
        context = tensorstore.Context(settings)
        return await serialize(values, [info.replace(ts_context=context) for info in infos], args)

    arrays.serialize = serialize_with_few_threads
    types = {kind: ocp.type_handlers.get_type_handler(kind) for kind in ocp.type_handlers.supported_types()}
    known = ocp.type_handlers.create_type_handler_registry(*(types | {jax.Array: arrays}).items())
    registry: Any = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in items:
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=known, use_compression=compress)
        for argument in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
            registry.add(item, argument, handler)
    return registry
