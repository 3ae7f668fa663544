"""How orbax writes the arrays of a checkpoint: fewer threads compress than the machine has cores.

Compressed arrays wait in memory until they are written. With a thread on every core more is compressed than the others
can write, and nothing stops it: nearly the whole checkpoint is in memory a second time (tests/benchmarks/README.md).

Groups of threads are made once and never freed. In tensorstore 0.1.86 a thread that hands over a task still uses the
group afterwards, even where that was the last use of it: a group that ends meanwhile is freed twice, and the memory of
the process is damaged.
"""

import copy
import ctypes
import functools
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
    arrays: Any = copy.copy(ocp.type_handlers.get_type_handler(jax.Array))
    serialize, deserialize = arrays.serialize, arrays.deserialize
    threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2))

    async def serialize_with_few_threads(values: Any, infos: Any, args: Any = None) -> Any:
        context = new_context(threads, compress)
        return await serialize(values, [info.replace(ts_context=context) for info in infos], args)

    async def deserialize_with_lasting_threads(infos: Any, args: Any = None) -> Any:
        context = new_context(None, compress)
        return await deserialize([info.replace(ts_context=context) for info in infos], args)

    arrays.serialize, arrays.deserialize = serialize_with_few_threads, deserialize_with_lasting_threads
    types = {kind: ocp.type_handlers.get_type_handler(kind) for kind in ocp.type_handlers.supported_types()}
    known = ocp.type_handlers.create_type_handler_registry(*(types | {jax.Array: arrays}).items())
    registry: Any = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in items:
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=known, use_compression=compress)
        for argument in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
            registry.add(item, argument, handler)
    return registry


def new_context(threads: int | None, sync: bool) -> tensorstore.Context:
    """A context for tensorstore with an index of its own, and groups of threads that outlive it.

    Args:
      threads: that compress or decompress; None for as many as the machine has cores.
      sync: whether files that are written are synced.
    """
    return tensorstore.Context({"cache_pool#ocdbt": {"total_bytes_limit": NODE_BYTES}}, _lasting(threads, sync))


@functools.cache
def _lasting(threads: int | None, sync: bool) -> tensorstore.Context:
    settings = {
        "data_copy_concurrency": {"limit": "shared" if threads is None else threads},
        "file_io_concurrency": {"limit": FILES},
        "file_io_sync": sync,
    }
    context = tensorstore.Context(settings)
    # A context makes its groups when they are first asked for, and keeps them.
    _kept.extend(context[name] for name in settings)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))  # nor freed when Python ends: threads may still run then
    return context


_kept: list[Any] = []  # what must not be freed: see above
