"""Memory and collectives of a training step on a TPU pod, from the compiler alone: no TPU is needed.

    pip install -e '.[tpu]'
    python -m tests.benchmarks.pod_memory [--model=llama-2-7b] [--topology=v5p:4x4x4] [--batch=4] [--length=4096]
                                          [--set path=value ...] [--whole] [--json]
    python -m tests.benchmarks.pod_memory --table [--whole] [--set path=value ...]

Compiles Cairn's step of a published model with AdamW: parameters and moments in float32, compute in bfloat16, full
rematerialisation, parameters split over all chips (FSDP). Prints, for one chip, the peak of memory, the bytes of
arguments (parameters, moments, batch) and of temporaries, the seconds of tracing and of compilation, and the
collectives of the compiled program by kind: how often one runs in a step, and the bytes that the chip receives.

By default the compiler is stopped when it has assigned the memory; with --whole it makes the machine code, too, and the
numbers are those of jax (`memory_analysis()`): a peak that is 0 to 2% lower. --table compiles ten settings whose peak
in MaxText 0.2.5 is known, one command each, and prints both.

What is counted, and how, stands in train/parallel/planner/program.py. `python -m launch.plan --compile` does the same for
a config.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time

from model.errors import UserError
from tests.benchmarks.command import ROOT, fail, run

# Model, topology, sequences a chip -> peak GiB, temporaries, arguments, compile seconds, wall seconds of MaxText 0.2.5
# (jax 0.11.1) at the same setting, on two idle cores.
MAXTEXT = {
    ("llama-2-7b", "v5e:16x16", 1): (2.71, 3.75, 0.29, 30, 42),
    ("llama-2-7b", "v5e:16x16", 4): (7.08, 9.01, 0.29, 38, 50),
    ("llama-2-7b", "v5p:4x4x4", 1): (3.90, 4.27, 1.18, 28, 41),
    ("llama-2-7b", "v5p:4x4x4", 4): (9.59, 13.05, 1.18, 26, 38),
    ("llama-2-7b", "v6e:16x16", 4): (8.29, 12.39, 0.29, 47, 60),
    ("llama-2-13b", "v5e:16x16", 1): (4.04, 5.46, 0.57, 31, 43),
    ("llama-2-13b", "v5e:16x16", 4): (10.94, 13.56, 0.57, 38, 49),
    ("llama-2-13b", "v5p:4x4x4", 1): (6.49, 6.55, 2.27, 24, 36),
    ("llama-2-13b", "v5p:4x4x4", 4): (14.31, 18.03, 2.27, 27, 38),
    ("llama-3.1-405b", "v5p:8x8x8", 1): (39.73, 44.36, 8.91, 30, 43),
}
GIB = 2**30


def main() -> None:
    """Compiles the step and prints its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-2-7b", help="the name of a published model")
    parser.add_argument("--topology", default="v5p:4x4x4", help="the chips, as libtpu names them")
    parser.add_argument("--batch", type=int, default=4, help="sequences on a chip")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a sequence")
    parser.add_argument("--set", action="append", default=[], metavar="path=value", help="changes a field")
    for name in ("whole", "json", "table"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    from train.parallel.planner.compiled import prepare_environment

    try:
        prepare_environment()
    except UserError as error:
        fail(str(error))
    if options.table:
        _table([f"--set={change}" for change in options.set] + ["--whole"] * options.whole)
        return

    from model.kernels.selection import recorded_choices
    from train.parallel.planner.chips import parse_cluster
    from train.parallel.planner.compiled import compiled_step

    cluster = parse_cluster(options.topology)
    experiment = _experiment(options.model, cluster.chips * cluster.chip.devices, options.batch, options.length)
    for assignment in options.set:
        from model.options.assignments import override

        experiment = override(experiment, assignment)
    from model.options.tree import check

    check(experiment)
    with recorded_choices() as chosen_kernels:
        step = compiled_step(experiment, cluster, cache=None, whole=options.whole)
    if options.json:
        print(json.dumps(dataclasses.asdict(step)))
        return
    print(f"{options.model} on {cluster}, {options.batch} x {options.length} tokens a chip")
    for name in ("peak", "arguments", "temporaries"):
        print(f"{name:20} {getattr(step, name) / GIB:8.2f} GiB a chip")
    print(f"{'tracing':20} {step.trace_seconds:8.1f} s\n{'compilation':20} {step.compile_seconds:8.1f} s")
    for line in chosen_kernels:
        print(f"kernel for {line}")
    for found in step.collectives:
        axes = ", ".join(found.axes)
        print(f"{found.kind:20} {axes:10} {found.runs:8,} a step, {found.received / GIB:10.3f} GiB received by a chip")


def _experiment(name, devices, rows, length):
    from model.families.sizes import published
    from model.parameters.precision import Precision
    from train.data import Bytes, Data
    from train.experiment import Experiment, Training
    from train.optimizers.options import AdamW
    from train.parallel.mesh import Mesh
    from train.schedules import Cosine

    precision = Precision(parameters="float32", compute="bfloat16")
    fits = {"batch_size": rows * devices, "sequence_length": length}
    return Experiment(
        model=dataclasses.replace(published(name), precision=precision, remat="full"),
        data=Data(path="none", tokenizer=Bytes(), cross_document_attention=True, **fits),
        training=Training(num_steps=1000),
        optimizer=AdamW(weight_decay=0.1),
        schedule=Cosine(peak=3e-4, final=3e-5, warmup_steps=100),
        mesh=Mesh(fsdp=devices),
    )


def _table(flags: list[str]) -> None:
    """Prints Cairn's numbers beside MaxText's, in the form of a page."""
    print(
        "| model, topology, batch a chip | peak GiB | by MaxText's | temporaries | arguments | received | compile s | wall s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (model, topology, batch), (peak, temporaries, arguments, seconds, wall) in MAXTEXT.items():
        began = time.perf_counter()
        command = [sys.executable, "-m", __spec__.name, f"--model={model}", f"--topology={topology}"]
        answer = subprocess.run(
            [*command, f"--batch={batch}", "--json", *flags], cwd=ROOT, capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
        line = f"| {model}, {topology}, {batch} |"
        if answer.returncode:
            print(line, (answer.stderr.strip().splitlines() or ["no message"])[-1], "|", flush=True)
            continue
        step = json.loads(answer.stdout)
        received = sum(each["received"] for each in step["collectives"]) / GIB
        line += f" {step['peak'] / GIB:.2f} / {peak} | {step['peak'] / GIB / peak:.2f} |"
        line += f" {step['temporaries'] / GIB:.2f} / {temporaries} | {step['arguments'] / GIB:.2f} / {arguments} |"
        print(
            line, f"{received:.1f} GiB | {step['compile_seconds']:.0f} / {seconds} | {took:.0f} / {wall} |", flush=True
        )


if __name__ == "__main__":
    run(main)
