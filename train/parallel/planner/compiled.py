"""The training step compiled for a TPU slice that need not be here: memory and collectives from the compiler itself.

libtpu compiles for any slice on a machine without a TPU. The step is the one that `train/loop.py` runs. A result is
kept on the disk, by the experiment, the topology, the versions of libraries, and the code of `model/` and `train/`.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

from model.errors import UserError
from model.options.json import to_json
from train.experiment import Experiment
from train.files.files import parse_json, write_json
from train.parallel.planner.chips import Cluster
from train.parallel.planner.program import Collective, collectives_of

ROOT = pathlib.Path(__file__).resolve().parents[3]
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
      peak: bytes of memory at the fullest moment.
      arguments: bytes of the state and the batch.
      temporaries: bytes of everything else that lives at some time.
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


def prepare_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets libtpu compile without a TPU; call it before jax starts. Raises UserError where libtpu is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs needs libtpu, which is not installed: pip install -e '.[tpu]'")
    environment.update(_ENVIRONMENT)


def compiled_step(experiment: Experiment, cluster: Cluster, cache: pathlib.Path | None) -> CompiledStep:
    """Compiles the training step of an experiment for TPU slices, or reads the result of an earlier call.

    Args:
      experiment: the resolved, checked experiment, whose mesh fits the cluster.
      cluster: TPU slices.
      cache: the folder of earlier results; None for none.

    Raises UserError for chips for which libtpu does not compile, and for a program that does not fit into memory.
    """
    if not cluster.is_tpu:
        raise UserError(f"--compile is for TPUs: jax compiles for a {cluster.chip.name} only where there is one")
    entry = None if cache is None else cache / f"{_key(experiment, cluster)}.json"
    if entry is not None and (found := _read(entry)) is not None:
        return found
    result = _compile(experiment, cluster)
    if entry is not None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_json(entry, dataclasses.asdict(result))
    return result


def _read(entry: pathlib.Path) -> CompiledStep | None:
    """An earlier result; None where there is none that can be read."""
    try:
        stored = parse_json(entry.read_bytes())
        collectives = tuple(Collective(**{**c, "axes": tuple(c["axes"])}) for c in stored.pop("collectives"))
        return CompiledStep(**stored | {"collectives": collectives, "cached": True})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


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


def _compile(experiment: Experiment, cluster: Cluster) -> CompiledStep:
    import jax.numpy as jnp
    from jax import ShapeDtypeStruct

    from train.parallel import feed
    from train.parallel.mesh import make_mesh
    from train.run.checks import check_mesh
    from train.state import StateConfig, abstract_state
    from train.step import compile_train_step

    mesh = make_mesh(experiment.mesh, _devices(cluster))
    check_mesh(experiment, mesh)
    dtypes = {"weights": jnp.float32}
    names = feed.batch_fields(experiment.objective.fields, experiment.data, experiment.model)
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    batch = {name: ShapeDtypeStruct(shape, dtypes.get(name, jnp.int32)) for name in names}
    began = time.perf_counter()
    lowered = compile_train_step(experiment, mesh).lower(abstract_state(StateConfig.of(experiment)), batch)
    traced = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:  # jax has no narrower class for it
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        raise UserError(f"the compiler finds no program that fits {cluster}: {str(error).splitlines()[0]}") from None
    ended = time.perf_counter()
    memory: Any = compiled.memory_analysis()
    return CompiledStep(
        peak=memory.peak_memory_in_bytes,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        collectives=collectives_of(compiled.as_text() or "", dict(mesh.shape)),
        trace_seconds=traced - began,
        compile_seconds=ended - traced,
    )


def _devices(cluster: Cluster) -> list[Any]:
    from jax.experimental import topologies

    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # it would say that there is no TPU
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=cluster.topology, num_slices=cluster.slices
        )
    except Exception as error:  # jax has no narrower class for it
        raise UserError(f"libtpu does not compile for {cluster}: {str(error).splitlines()[0]}") from None
    return list(described.devices)
