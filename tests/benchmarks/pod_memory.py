"""Memory and collectives of a training step on a TPU pod, from the compiler alone: no TPU is needed.

    pip install -e '.[tpu]'
    python -m tests.benchmarks.pod_memory [--model=llama-2-7b] [--topology=v5p:4x4x4] [--batch=4] [--length=4096]
                                          [--set path=value ...]

Compiles Cairn's step of a published model with AdamW: parameters and moments in float32, compute in bfloat16, full
rematerialisation, parameters split over all chips (FSDP). Prints, for one chip, the peak of memory, the bytes of
arguments (parameters, moments, batch) and of temporaries, the seconds of tracing and of compilation, and the
collectives of the compiled program by kind: how often one runs in a step, and the bytes that the chip receives.

What is counted, and how, stands in train/parallel/planner/program.py. `python -m launch.plan --compile` does the same for a config.
"""

import argparse
import dataclasses

from model.errors import UserError
from tests.benchmarks.command import fail, run


def main() -> None:
    """Compiles the step and prints its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-2-7b", help="the name of a published model")
    parser.add_argument("--topology", default="v5p:4x4x4", help="the chips, as libtpu names them")
    parser.add_argument("--batch", type=int, default=4, help="sequences on a chip")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a sequence")
    parser.add_argument("--set", action="append", default=[], metavar="path=value", help="changes a field")
    options = parser.parse_args()
    from train.parallel.planner.chips import parse_cluster
    from train.parallel.planner.compiled import compiled_step, prepare_environment

    try:
        prepare_environment()
    except UserError as error:
        fail(str(error))

    from model.families.sizes import published
    from model.kernels.selection import recorded_choices
    from model.options.assignments import override
    from model.options.tree import check
    from model.parameters.precision import Precision
    from train.data import Bytes, Data
    from train.experiment import Experiment, Training
    from train.optimizers.options import AdamW
    from train.parallel.mesh import Mesh
    from train.schedules import Cosine

    cluster = parse_cluster(options.topology)
    devices = cluster.chips * cluster.chip.devices
    rows = options.batch * devices
    precision = Precision(parameters="float32", compute="bfloat16")
    model = dataclasses.replace(published(options.model), precision=precision, remat="full")
    fits = {"batch_size": rows, "sequence_length": options.length}
    experiment = Experiment(
        model=model,
        data=Data(path="none", tokenizer=Bytes(), cross_document_attention=True, **fits),
        training=Training(num_steps=1000),
        optimizer=AdamW(weight_decay=0.1),
        schedule=Cosine(peak=3e-4, final=3e-5, warmup_steps=100),
        mesh=Mesh(fsdp=devices),
    )
    for assignment in options.set:
        experiment = override(experiment, assignment)
    check(experiment)
    with recorded_choices() as chosen_kernels:
        step, gib = compiled_step(experiment, cluster, cache=None), 2**30
    print(f"{options.model} on {devices} chips ({cluster}), {options.batch} x {options.length} tokens a chip")
    for name in ("peak", "arguments", "temporaries"):
        print(f"{name:20} {getattr(step, name) / gib:8.2f} GiB a chip")
    print(f"{'tracing':20} {step.trace_seconds:8.1f} s\n{'compilation':20} {step.compile_seconds:8.1f} s")
    for line in chosen_kernels:
        print(f"kernel for {line}")
    for found in step.collectives:
        axes = ", ".join(found.axes)
        print(f"{found.kind:20} {axes:10} {found.runs:8,} a step, {found.received / gib:10.3f} GiB received by a chip")


if __name__ == "__main__":
    run(main)
