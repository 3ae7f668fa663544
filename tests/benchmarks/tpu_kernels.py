"""Kernels for TPUs, compiled by libtpu on a machine without one: whether they compile, and what memory they take.

    pip install -e '.[tpu]'
    python -m tests.benchmarks.tpu_kernels [--topology=v5p:2x2x1] [--length=4096]

Compiles splash attention with its gradients for every case of tests/model/kernels/matrix.py at this length, and megablox
with its gradients, through the same door as a model. Prints the temporaries, and fails if a program does not compile,
if the door took another kernel, or if a program holds an array of all scores: more temporaries than four times the arrays
that attention reads and writes. A decoding step, which writes a token a row and reads pages, for every case of
tests/model/kernels/paged_matrix.py with a pool that is donated, may have no copy of the pool and no temporaries of a
quarter of it.
"""

import argparse
import os
import time
from typing import Any

from tests.benchmarks.command import fail, run


def main() -> None:
    """Compiles and prints one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5p:2x2x1", help="the chips, as libtpu names them; the first is used")
    parser.add_argument("--length", type=int, default=4096, help="queries and keys")
    options = parser.parse_args()
    from train.parallel.planner.compiled import prepare_environment

    prepare_environment()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies

    from model.kernels import FOR_PAGES, KERNELS, choose
    from model.kernels.experts.megablox import Megablox
    from model.parameters.mixed_precision import grouped_matmul
    from tests.model.kernels import matrix, paged_matrix

    device = topologies.get_topology_desc(platform="tpu", topology_name=options.topology).devices[0]
    placement = jax.sharding.SingleDeviceSharding(device)
    failed = False

    def compiled(name: str, function: Any, arguments: Any, most: float, donated: tuple[int, ...] = ()) -> Any:
        nonlocal failed
        began = time.perf_counter()
        abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)  # noqa: E731
        try:
            lowered = jax.jit(function, donate_argnums=donated).lower(*jax.tree.map(abstract, arguments))
            program = lowered.compile()
        except Exception as error:  # whatever the compiler says is the result
            print(f"{name:45} FAILED: {str(error).strip().splitlines()[-1][:200]}", flush=True)
            failed = True
            return None
        temporaries, seconds = program.memory_analysis().temp_size_in_bytes, time.perf_counter() - began
        failed |= (large := temporaries > most)
        words = " TOO LARGE" if large else ""
        print(f"{name:45} {temporaries / 2**20:8.1f} MiB of temporaries{words}, {seconds:5.1f} s", flush=True)
        return program

    for case in matrix.CASES:
        asked = matrix.problem(case, length=options.length)
        splash = next(kernel for kernel in KERNELS if kernel.name == "splash")
        reason = splash.supports(asked.request(platform="tpu"))
        if reason is not None:
            print(f"{case.name:45} refused: {reason}")
            continue
        read = sum(x.size for x in (*asked.arrays, asked.towards)) * 4
        compiled(case.name, matrix.both(asked, splash, platform="tpu"), matrix.arguments(asked), 4 * read)

    for case in paged_matrix.CASES:
        request = paged_matrix.problem(case).request(platform="tpu")
        choice = choose(request, FOR_PAGES)
        if choice.kernel.name != "tpu_pages":
            print(f"{case.name:45} refused: {choice.refused['tpu_pages']}")
            continue
        arguments = paged_matrix.step_arguments(case, num_pages=4096)
        pool = arguments[0]["k"].nbytes
        program = compiled(case.name, paged_matrix.step(case, "tpu"), arguments, pool / 4, donated=(0,))
        if program is not None and (copies := paged_matrix.copies(program.as_text(), arguments[0]["k"].shape)):
            print(f"{case.name:45} COPIES its pool: {copies[0][:120]}")
            failed = True

    for dtype in (jnp.bfloat16, jnp.float32):
        x, w = jnp.zeros((8192, 2048), dtype), jnp.zeros((8, 2048, 1024), jnp.float32)

        def products(x: Any, w: Any, sizes: Any) -> Any:
            return jax.vjp(lambda x, w: grouped_matmul(x, w, sizes, Megablox()), x, w)[1](
                jnp.ones((8192, 1024), x.dtype)
            )

        name = f"megablox, {jnp.dtype(dtype).name}"
        compiled(name, products, (x, w, jnp.full(8, 1024, jnp.int32)), 4 * (x.size + w.size) * 4)
    if failed:
        fail("a program did not compile, or holds too much")


if __name__ == "__main__":
    run(main)
