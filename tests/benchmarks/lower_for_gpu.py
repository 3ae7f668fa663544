"""Lowers kernels and training steps for NVIDIA GPUs on a machine without one, to find what would not lower.

    pip install -e '.[cuda12]'
    JAX_PLATFORMS=cpu python -m tests.benchmarks.lower_for_gpu

The last compilation, by XLA for the GPU, needs one; lowering makes the program with its calls of cuDNN and of Triton, and
fails where JAX or a kernel refuses shapes, dtypes or layouts. It needs no GPU but the CUDA plugin of jax, which cuDNN's
checks ask for its version. Without a GPU, kernels do what GPUs of compute capability 8.0 can do; tokamax is left out.
Prints a line for each program, and ends with status 1 if one did not lower.
"""

import dataclasses
import unittest.mock
from collections.abc import Callable
from typing import Any

import jax

from model.kernels import KERNELS
from model.kernels.selection import recorded_choices
from tests.benchmarks.command import ROOT, run
from tests.model.kernels import matrix, paged_matrix


def lowered(name: str, trace: Callable[[], Any]) -> bool:
    """Whether a program lowers; prints its calls of libraries and the kernels that were chosen."""
    try:
        with recorded_choices() as chosen:
            text = trace().lower(lowering_platforms=("cuda",)).as_text()
    except Exception as error:  # whatever JAX or a kernel says is the result
        print(f"{name:60} FAILED: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}", flush=True)
        return False
    calls = {call: text.count(call) for call in ("__cudnn$fmha", "__gpu$xla.gpu.triton", "triton_kernel_call")}
    print(f"{name:60} lowered; {', '.join(f'{n} {call}' for call, n in calls.items() if n) or 'no calls'}", flush=True)
    for line in chosen:
        print(f"    kernel for {line}")
    return True


def step(sets: tuple[str, ...]) -> Any:
    """The training step of llama_1b.py, traced as for a GPU."""
    from train.config_file import from_file
    from train.parallel import feed
    from train.parallel.mesh import make_mesh
    from train.parallel.table import MeshLayout
    from train.state import StateConfig, abstract_state
    from train.step import compile_train_step

    experiment = from_file(str(ROOT / "tests" / "benchmarks" / "llama_1b.py"), list(sets))
    experiment = dataclasses.replace(experiment, mesh=dataclasses.replace(experiment.mesh, fsdp=1, data=1))
    names = feed.batch_fields(experiment.objective.fields, experiment.data, experiment.model)
    shape = (experiment.data.batch_size, experiment.data.sequence_length)
    dtypes = {"weights": "float32"}
    batch = {name: jax.ShapeDtypeStruct(shape, dtypes.get(name, "int32")) for name in names}
    with unittest.mock.patch.object(MeshLayout, "platform", "gpu"):
        state = abstract_state(StateConfig.of(experiment))
        return compile_train_step(experiment, make_mesh(experiment.mesh)).trace(state, batch)


def main() -> None:
    """Lowers and prints."""
    good = True
    for case in matrix.CASES:
        asked = matrix.problem(case, length=1024)
        for kernel in KERNELS:
            takes = "gpu" in kernel.platforms and kernel.supports(asked.request(platform="gpu")) is None
            if takes:
                trace = lambda asked=asked, kernel=kernel: jax.jit(matrix.both(asked, kernel, "gpu")).trace(  # noqa: E731
                    *matrix.arguments(asked)
                )
                good &= lowered(f"{case.name}, {kernel.name}", trace)
    for paged in paged_matrix.CASES:
        arguments, function = paged_matrix.step_arguments(paged, num_pages=256), paged_matrix.step(paged, "gpu")
        good &= lowered(paged.name, lambda function=function, given=arguments: jax.jit(function).trace(*given))
    good &= lowered("step of llama_1b.py", lambda: step(()))
    packed = ("data.cross_document_attention=False",)
    good &= lowered("step of llama_1b.py, packed documents", lambda: step(packed))
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
