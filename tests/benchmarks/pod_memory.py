"""Memory and collectives of a training step on a TPU pod, from the compiler alone: no TPU is needed.

    pip install -e '.[tpu]'
    python -m tests.benchmarks.pod_memory [--model=llama-2-7b] [--topology=v5p:4x4x4] [--batch=4] [--length=4096]
                                          [--set path=value ...]

Compiles Cairn's step of a published model with AdamW: parameters and moments in float32, compute in bfloat16, full
rematerialisation, parameters split over all chips (FSDP). Prints, for one chip, the peak of memory, the bytes of
arguments (parameters, moments, batch) and of temporaries, the seconds of tracing and of compilation, and the
collectives of the compiled program by kind: how often one runs in a step, and the bytes of the results.

Instructions in the body of a loop count as often as it turns, where its condition compares with a constant. A kind is
what the compiler calls it: a gather of weights may stand as all-reduce of a dynamic-update-slice, and a reduce-scatter
as all-reduce and a slice. Two of these at once need ALLOW_MULTIPLE_LIBTPU_LOAD=1.
"""

import argparse
import collections
import dataclasses
import importlib.util
import math
import os
import re
import time

from tests.benchmarks.command import fail, run

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
COLLECTIVE = re.compile(rf" = (.+?) ({KINDS})(-start)?\(")
SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
CALLED = re.compile(r"\b(?:body|calls|to_apply|called_computations|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)\}?")
CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")


def size_of(shape: str, begun: bool) -> int:
    """The bytes of a result: of all its arrays, since one instruction may send several.

    What only begins an asynchronous one has its operands beside the result proper, which is then the largest array.
    """

    def bytes_of(dtype: str, dimensions: str) -> int:
        bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
        return math.prod(int(d) for d in dimensions.split(",") if d) * bits // 8

    sizes = [bytes_of(*found) for found in SHAPE.findall(shape)]
    return max(sizes, default=0) if begun else sum(sizes)


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Of a compiled program: kind -> how often one runs, and the bytes of all results."""
    inside: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    calls: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    limits: dict[str, list[int]] = collections.defaultdict(list)
    entry = current = ""
    for line in text.splitlines():
        if begun := COMPUTATION.match(line):
            current = begun[2]
            entry = current if begun[1] else entry
        elif found := COLLECTIVE.search(line):
            inside[current].append((found[2], size_of(found[1], begun=bool(found[3]))))
        elif limit := LIMIT.search(line):
            limits[current].append(int(limit[1]))
        condition = CONDITION.search(line)
        for names in CALLED.findall(line):
            calls[current] += [(name.strip(" %"), condition[1] if condition else "") for name in names.split(",")]
    totals: dict[str, tuple[int, int]] = {}

    def add(computation: str, times: int) -> None:
        for kind, size in inside[computation]:
            count, total = totals.get(kind, (0, 0))
            totals[kind] = count + times, total + times * size
        for name, condition in calls[computation]:
            turns = limits[condition]  # a loop over layers counts from 0 to the one number in its condition
            add(name, times * (turns[0] if len(turns) == 1 else 1))

    add(entry, 1)
    return totals


def main() -> None:
    """Compiles the step and prints its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-2-7b", help="the name of a published model")
    parser.add_argument("--topology", default="v5p:4x4x4", help="the chips, as libtpu names them")
    parser.add_argument("--batch", type=int, default=4, help="sequences on a chip")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a sequence")
    parser.add_argument("--set", action="append", default=[], metavar="path=value", help="changes a field")
    options = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        fail("this compiles with libtpu, which is not installed: pip install -e '.[tpu]'")
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies

    from model.families.sizes import published
    from model.options.assignments import override
    from model.options.tree import check
    from model.parameters.precision import Precision
    from train.data import Bytes, Data
    from train.experiment import Experiment, Training
    from train.optimizers.options import AdamW
    from train.parallel.mesh import Mesh, make_mesh
    from train.schedules import Cosine
    from train.state import StateConfig, abstract_state
    from train.step import compile_train_step

    devices = topologies.get_topology_desc(platform="tpu", topology_name=options.topology).devices
    rows = options.batch * len(devices)
    precision = Precision(parameters="float32", compute="bfloat16")
    model = dataclasses.replace(published(options.model), precision=precision, remat="full")
    fits = {"batch_size": rows, "sequence_length": options.length}
    experiment = Experiment(
        model=model,
        data=Data(path="none", tokenizer=Bytes(), cross_document_attention=True, **fits),
        training=Training(num_steps=1000),
        optimizer=AdamW(weight_decay=0.1),
        schedule=Cosine(peak=3e-4, final=3e-5, warmup_steps=100),
        mesh=Mesh(fsdp=len(devices)),
    )
    for assignment in options.set:
        experiment = override(experiment, assignment)
    check(experiment)
    state = abstract_state(StateConfig.of(experiment))
    dtypes = {"tokens": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct((rows, options.length), dtype) for name, dtype in dtypes.items()}
    began = time.perf_counter()
    lowered = compile_train_step(experiment, make_mesh(experiment.mesh, devices)).lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()

    memory, gib = compiled.memory_analysis(), 2**30
    print(
        f"{options.model} on {len(devices)} chips ({options.topology}), {options.batch} x {options.length} tokens a chip"
    )
    for name, size in (
        ("peak", memory.peak_memory_in_bytes),
        ("arguments", memory.argument_size_in_bytes),
        ("temporaries", memory.temp_size_in_bytes),
    ):
        print(f"{name:20} {size / gib:8.2f} GiB a chip")
    print(f"{'tracing':20} {traced - began:8.1f} s\n{'compilation':20} {ended - traced:8.1f} s")
    for kind, (count, size) in sorted(collectives(compiled.as_text()).items()):
        print(f"{kind:20} {count:8,} a step, {size / gib:10.3f} GiB of results")


if __name__ == "__main__":
    run(main)
