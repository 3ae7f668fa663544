"""launch.submit: every dry run is a golden file, and every mistake one line.

RECORD=1 python -m pytest tests/launch/test_submit.py     # writes the golden files anew; look at the difference
"""

import os
import pathlib

import pytest

MODULE = "launch.submit"
FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "submit"
CONFIG = "--config=configs/quickstart.py"
QUOTED = """--set=samples.prompts=("it's a \\"test\\" of $HOME",)"""
SLURM = ["--to=slurm", CONFIG, "--folder=/shared/cairn", "--partition=gpu", "--nodes=2", "--gpus_per_node=4"]
GKE = ["--to=gke", CONFIG, "--image=europe-docker.pkg.dev/project/cairn:1", "--claim=runs:/runs"]
TPU_VM = ["--to=tpu_vm", CONFIG, "--zone=us-east5-a", "--setup=sudo mount 10.0.0.2:/runs /runs && pip install -e cairn"]
LOCAL = ["--to=local", CONFIG, "--run=runs/try", "--python=python"]
MORE = ["--setup=source .venv/bin/activate", "--sbatch=--qos=high", "--cpus_per_task=8", "--", "--stall_timeout=600"]
VARIANTS = ["--variant=base:", "--variant=deep: model.num_layers=3 'samples.prompts=(\"a b\",)'"]
POOL = ["--queue=multislice-queue", "--namespace=lab", "--service_account=trainer", "--folder=/app"]
DRY_RUNS = {
    "local.sh": [*LOCAL, "--processes=2", "--devices_per_process=4", "--port=8476", QUOTED, "--mesh=fsdp=8"],
    "local_one.sh": LOCAL,
    "slurm.sh": [
        *SLURM,
        "--run=/shared/my runs/one",
        "--mesh=fsdp=8",
        "--time=24:00:00",
        "--account=lab",
        QUOTED,
        *MORE,
    ],
    "slurm_sweep.sh": [*SLURM, "--run=runs/sweep", "--seeds=1,3-4", "--max_running=2", "--max_restarts=3", *VARIANTS],
    "gke_tpu.yaml": [
        *GKE,
        "--topology=v5p:4x4x4",
        "--slices=2",
        "--run=/runs/Seven_B.2",
        "--mesh=fsdp=64",
        QUOTED,
        *POOL,
    ],
    "gke_gpu.yaml": [*GKE, "--topology=h100:2x8", "--run=/runs/7b", "--mesh=fsdp=16", "--grace_seconds=25"],
    "tpu_vm.sh": [*TPU_VM, "--topology=v5e:8x8", "--slices=2", "--run=/runs/my run", QUOTED, "--spot", "--project=p"],
    "tpu_vm_one.sh": [*TPU_VM, "--topology=v6e:16x16", "--run=/runs/one", "--reserved"],
}
REFUSED = [
    ([CONFIG], "--to is missing: which engine? One of local, slurm, gke, tpu_vm"),
    (["--to=slrm", CONFIG], "--to=slrm is no engine; did you mean 'slurm'?"),
    (["--to=local"], "--config is missing"),
    ([*LOCAL, "--partition=gpu"], "--partition has no effect with --to=local; it belongs to --to=slurm"),
    (
        [*SLURM, "--topology=v5p:4x4x4"],
        "--topology has no effect with --to=slurm; it belongs to --to=gke and --to=tpu_vm",
    ),
    ([*LOCAL, "--processes=2"], "--processes=2 needs --devices_per_process"),
    ([*LOCAL, "--processes=0"], "--processes=0: expected a whole number from 1"),
    ([*LOCAL, "--show=none"], "--show=none: expected first or all"),
    (
        [*LOCAL, "--devices_per_process=4", "--mesh=fsdp=8"],
        "mesh fsdp=8 does not multiply to the 4 devices of this job",
    ),
    ([*LOCAL, "--set=training.num_step=3"], "did you mean"),
    ([*LOCAL, "extra"], "unexpected argument 'extra'; after -- come flags of launch.train, as in -- --hard"),
    (["--to=slurm", CONFIG], "--partition is missing"),
    ([*SLURM, "--time=soon"], "--time=soon: expected hours:minutes:seconds"),
    ([*SLURM, "--sbatch=exclusive"], "--sbatch=exclusive: expected an option"),
    ([*SLURM, "--seeds=1,one"], "--seeds=1,one: expected whole numbers and ranges"),
    ([*SLURM, "--variant=model.width=3"], "expected NAME: field=value"),
    ([*SLURM, "--variant=a: model.width"], "'model.width' changes no field"),
    ([*SLURM, "--variant=a: model.wdth=3"], "did you mean"),
    ([*SLURM, "--seeds=1,1"], "two runs of the sweep would have the folder runs/quickstart/seed1"),
    ([*SLURM, "--run=gs://bucket/run"], "the nodes need a folder that they share"),
    (["--to=gke", CONFIG, "--image=i"], "--topology is missing: which accelerators?"),
    ([*GKE, "--topology=v5q:4x4x4"], "'v5q' is no known chip; did you mean"),
    ([*GKE, "--topology=v5p:4x4x5"], "there is no such slice; the nearest is v5p:4x4x8"),
    ([*GKE, "--topology=v5e:4x5"], "there is no such slice; the nearest is v5e:4x4"),
    ([*GKE, "--topology=v5p:2x2x1"], "--run=runs/quickstart is not on a volume that all pods share"),
    ([*GKE, "--topology=v5p:2x2x1", "--claim=runs"], "--claim=runs: expected NAME:/PATH"),
    (["--to=gke", CONFIG, "--topology=v5p:2x2x1"], "--image is missing"),
    ([*TPU_VM, "--topology=h100:2x8", "--run=/runs/a"], "h100 is no TPU; Cloud TPU VMs have v4, v5e, v5p, v6e, v7x"),
    ([*TPU_VM, "--topology=v7x:2x2x1", "--run=/runs/a"], "--runtime_version is missing"),
    ([*TPU_VM, "--topology=v5p:4x4x16", "--run=/runs/a"], "for 256 chips take --topology=v5p:4x8x8"),
    ([*TPU_VM, "--topology=v5p:2x2x1", "--run=runs/a"], "--run=runs/a: give the absolute path of a folder"),
    ([*TPU_VM, "--topology=v5e:16x16", "--slices=2", "--run=/runs/a"], "has 128 hosts, and gcloud reaches at most 64"),
    ([*TPU_VM[:3], "--topology=v5p:2x2x1", "--run=/runs/a"], "--setup is missing"),
    ([*TPU_VM[:2], "--topology=v5p:2x2x1", "--run=/runs/a"], "--zone is missing"),
    ([*TPU_VM, "--topology=v5p:2x2x1", "--run=/runs/a", "--spot", "--reserved"], "exclude each other"),
]


def dry(arguments):
    return [arguments[0], "--dry_run", *arguments[1:]]


@pytest.fixture(scope="module")
def answers(call):
    """Of all calls, dry, in one process; the flags of this machine for XLA are not in a golden file."""
    before = os.environ.pop("XLA_FLAGS")
    try:
        found = call(MODULE, [dry(arguments) for arguments in [*DRY_RUNS.values(), *(given for given, _ in REFUSED)]])
    finally:
        os.environ["XLA_FLAGS"] = before
    return found[: len(DRY_RUNS)], found[len(DRY_RUNS) :]


def test_dry_runs_are_the_golden_files(answers):
    for name, answer in zip(DRY_RUNS, answers[0], strict=True):
        assert (answer.status, answer.err) == (0, ""), name
        if os.environ.get("RECORD"):
            (FIXTURES / name).write_text(answer.out)
        assert answer.out == (FIXTURES / name).read_text(), name


def test_mistakes(answers):
    for (given, words), answer in zip(REFUSED, answers[1], strict=True):
        assert (answer.status, answer.out) == (2, ""), (given, answer)
        assert words in answer.err, given
