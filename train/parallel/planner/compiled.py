"""The training step compiled for a TPU slice that need not be here: memory and collectives from the compiler itself.

libtpu compiles for any slice on a machine without a TPU. The step is the one that `train/loop.py` runs. Another process
compiles (`worker.py`), and is ended as soon as libtpu has decided on the memory: the machine code, which takes several
times as long, would change nothing. A result is kept on the disk, by the experiment, the topology, the versions of
libraries, and the code of `model/` and `train/`.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

from model.errors import UserError
from model.options.json import to_json
from train.experiment import Experiment
from train.files.files import parse_json, write_json
from train.parallel.planner import worker
from train.parallel.planner.chips import Cluster
from train.parallel.planner.program import Collective, collectives_of

ROOT = pathlib.Path(__file__).resolve().parents[3]
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(.*)$", re.MULTILINE)
_SECTIONS = ("model", "optimizer", "objective", "mesh", "sharding", "training", "schedule")  # what the step is made of

# The first three let libtpu compile here, several processes at a time: none holds a TPU. The others answer what libtpu
# would ask the machine about TPUs that it does not have, and keep its log off the terminal.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """What the compiler says of a step, on one device.

    Attributes:
      peak: bytes of memory that the program takes: the arguments, and the heap of everything else.
      arguments: bytes of the state and the batch.
      temporaries: bytes of the heap; after a whole compilation, of all that lives in it at some time.
      collectives: see `program.py`.
      trace_seconds, compile_seconds: what it took.
      cached: whether the result was on the disk.
    """

    peak: int
    arguments: int
    temporaries: int
    collectives: tuple[Collective, ...]
    trace_seconds: float
    compile_seconds: float
    cached: bool = False


class TooLargeError(UserError):
    """The compiler finds no program that fits into the memory."""


def prepare_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets libtpu compile without a TPU; call it before jax starts. Raises UserError where libtpu is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs needs libtpu, which is not installed: pip install -e '.[tpu]'")
    environment.update(_ENVIRONMENT)


def check_cluster(cluster: Cluster) -> None:
    """Raises UserError for chips for which nothing compiles without one of them."""
    if not cluster.is_tpu:
        raise UserError(
            f"--compile is for TPUs: jax compiles for a {cluster.chip.name} only where there is one; leave it out"
        )


def compiled_step(
    experiment: Experiment,
    cluster: Cluster,
    cache: pathlib.Path | None,
    *,
    whole: bool = False,
) -> CompiledStep:
    """Compiles the training step of an experiment for TPU slices, or reads the result of an earlier call.

    Args:
      experiment: the resolved, checked experiment, whose mesh fits the cluster.
      cluster: TPU slices.
      cache: the folder of earlier results; None for none.
      whole: whether machine code is made, too; the numbers are then those of `memory_analysis()` of jax.

    Raises UserError for chips for which libtpu does not compile, and TooLargeError for a program that does not fit.
    """
    check_cluster(cluster)
    entry = None if cache is None else cache / f"{_key(experiment, cluster)}{'-whole' * whole}.json"
    if entry is not None and (found := _read(entry)) is not None:
        return found
    try:
        result = _compile(experiment, cluster, whole)
    except TooLargeError as error:
        _keep(entry, {"too_large": str(error)})
        raise
    _keep(entry, dataclasses.asdict(result))
    return result


def _keep(entry: pathlib.Path | None, result: dict[str, Any]) -> None:
    if entry is not None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_json(entry, result)


def _read(entry: pathlib.Path) -> CompiledStep | None:
    """An earlier result; None where there is none that can be read. Raises TooLargeError if it was that."""
    try:
        stored = parse_json(entry.read_bytes())
        if (too_large := stored.get("too_large")) is None:
            collectives = tuple(Collective(**{**c, "axes": tuple(c["axes"])}) for c in stored.pop("collectives"))
            return CompiledStep(**stored | {"collectives": collectives, "cached": True})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    raise TooLargeError(str(too_large))


def _key(experiment: Experiment, cluster: Cluster) -> str:
    options = to_json(experiment)
    rows = {name: options["data"][name] for name in ("batch_size", "sequence_length", "cross_document_attention")}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu", "flax", "optax")}
    parts = [{name: options[name] for name in _SECTIONS if name in options}, rows, str(cluster), versions]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _sources() -> Iterator[pathlib.Path]:
    for room in ("model", "train"):
        yield from sorted((ROOT / room).rglob("*.py"))


def _compile(experiment: Experiment, cluster: Cluster, whole: bool) -> CompiledStep:
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        folder = pathlib.Path(name)
        job = {"experiment": to_json(experiment), "topology": cluster.topology, "slices": cluster.slices}
        (folder / worker.JOB).write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "train.parallel.planner.worker", name]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | _ENVIRONMENT, stdout=log, stderr=log)
        try:
            return _wait(folder, process, whole)
        finally:
            process.kill()
            process.wait()


def _wait(folder: pathlib.Path, process: subprocess.Popen[bytes], whole: bool) -> CompiledStep:
    """Waits until the process has written what is needed."""
    traced = None
    while True:
        ended = process.poll() is not None
        if traced is None and (folder / worker.TRACED).exists():
            traced = time.perf_counter()
        if (folder / worker.ERROR).exists():
            raise UserError((folder / worker.ERROR).read_text(encoding="utf-8"))
        if (folder / worker.TOO_LARGE).exists():
            raise TooLargeError((folder / worker.TOO_LARGE).read_text(encoding="utf-8"))
        if (folder / worker.RESULT).exists():
            result = parse_json((folder / worker.RESULT).read_bytes())
            return _result(folder, (folder / "program.txt").read_text(encoding="utf-8"), **result)
        if not whole and traced is not None and (dump := _dump(folder)) is not None:
            report, text = dump
            return _result(folder, text, **_memory(report), compile_seconds=time.perf_counter() - traced)
        if ended:
            log = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise UserError(f"the compiler ended with status {process.returncode}: {log[-1] if log else 'no message'}")
        time.sleep(0.1)


def _result(folder: pathlib.Path, text: str, **memory: float) -> CompiledStep:
    traced = parse_json((folder / worker.TRACED).read_bytes())
    return CompiledStep(
        peak=int(memory["peak"]),
        arguments=int(memory["arguments"]),
        temporaries=int(memory["temporaries"]),
        collectives=collectives_of(text, traced["mesh"]),
        trace_seconds=traced["trace_seconds"],
        compile_seconds=memory["compile_seconds"],
    )


def _dump(folder: pathlib.Path) -> tuple[str, str] | None:
    """The text of the memory's allocations and of the program; None until both are there and whole."""
    found = []
    for ending in ("buffer-assignment", "after_optimizations_after_buffer_assignment"):
        paths = list(folder.glob(f"*{worker.MODULE}*{ending}.txt"))
        if len(paths) != 1:
            return None
        found.append(paths[0].read_text(encoding="utf-8", errors="replace"))
    return (found[0], found[1]) if found[1].rstrip().endswith("}") else None


def _memory(report: str) -> dict[str, int]:
    """The bytes of the device's memory (HBM) by XLA's assignment of buffers: of arguments, of the heap, of all."""
    sizes = {"arguments": 0, "temporaries": 0, "peak": 0}
    for size, rest in _ALLOCATION.findall(report):
        if ", color " in rest:  # another memory, in the core
            continue
        sizes["peak"] += int(size)
        if ", parameter " in rest:
            sizes["arguments"] += int(size)
        elif "preallocated-temp" in rest:
            sizes["temporaries"] += int(size)
    return sizes
