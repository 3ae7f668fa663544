"""A process that compiles one training step for TPUs that need not be here; `compiled.py` starts it.

    python -m train.parallel.planner.worker FOLDER

FOLDER/job.json has the experiment, the topology and the slices. The process writes what XLA dumps into FOLDER, and at
last FOLDER/result.json, or FOLDER/too_large.txt for a program that does not fit, or FOLDER/error.txt. libtpu decides
on memory and collectives in seconds; then it makes machine code, which takes minutes and which a plan does not need. So
whoever waits for the dump of the memory may end this process.
"""

import json
import logging
import pathlib
import sys
import time
from typing import Any

from model.errors import UserError
from model.options.json import from_json
from train.experiment import Experiment
from train.files.files import replace_file, write_json
from train.parallel.planner.chips import Cluster, parse_cluster

MODULE = "jit_train_step"  # a part of the names of the files that XLA dumps about the step
JOB, TRACED, RESULT = "job.json", "traced.json", "result.json"
TOO_LARGE, ERROR = "too_large.txt", "error.txt"


def main(folder: pathlib.Path) -> None:
    """Compiles the job of a folder."""
    job = json.loads((folder / JOB).read_bytes())
    cluster = parse_cluster(job["topology"], job["slices"])
    try:
        _compile(from_json(Experiment, job["experiment"]), cluster, folder)
    except UserError as error:
        replace_file(folder / ERROR, str(error).encode())


def _compile(experiment: Experiment, cluster: Cluster, folder: pathlib.Path) -> None:
    import jax.numpy as jnp
    from jax import ShapeDtypeStruct

    from train.objectives.interface import refuse_preparation
    from train.parallel import feed
    from train.parallel.mesh import make_mesh
    from train.run.checks import check_mesh
    from train.state import StateConfig, abstract_state
    from train.step import compile_train_step

    refuse_preparation(experiment.objective, "the plan of a mesh")
    mesh = make_mesh(experiment.mesh, devices(cluster))
    check_mesh(experiment, mesh)
    dtypes = {"weights": jnp.float32}
    names = feed.batch_fields(experiment.objective.fields, experiment.data, experiment.model)
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    batch = {name: ShapeDtypeStruct(shape, dtypes.get(name, jnp.int32)) for name in names}
    began = time.perf_counter()
    lowered = compile_train_step(experiment, mesh).lower(abstract_state(StateConfig.of(experiment)), batch)
    traced = time.perf_counter()
    write_json(folder / TRACED, {"trace_seconds": traced - began, "mesh": dict(mesh.shape)})
    try:
        compiled = lowered.compile(compiler_options={"xla_dump_to": str(folder), "xla_dump_hlo_module_re": MODULE})
    except Exception as error:  # jax has no narrower class for it
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        replace_file(folder / TOO_LARGE, str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ").encode())
        return
    ended = time.perf_counter()
    memory: Any = compiled.memory_analysis()
    result = {
        "peak": memory.peak_memory_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "compile_seconds": ended - traced,
    }
    (folder / "program.txt").write_text(compiled.as_text() or "", encoding="utf-8")
    write_json(folder / RESULT, result)


def devices(cluster: Cluster) -> list[Any]:
    """The devices of TPU slices, as libtpu describes them. Raises UserError for slices that it does not know."""
    from jax.experimental import topologies

    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # it would say that there is no TPU
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=cluster.topology, num_slices=cluster.slices
        )
    except Exception as error:  # jax has no narrower class for it
        raise UserError(f"libtpu does not compile for {cluster}: {str(error).splitlines()[0]}") from None
    return list(described.devices)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
