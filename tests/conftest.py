"""What the tests share: eight virtual devices, one compilation cache, tiny experiments and a tiny finished run."""

import dataclasses
import gc
import importlib.metadata
import json
import os
import pathlib
import random
import signal
import sys

import pytest

from tests.commands import status_of
from tests.programs import drop_grown, drop_steps, share_contexts, share_steps
from tests.tiers import COLLECTED, counted

# Before jax is imported: tests of sharding want several devices, and all want each program compiled once. Programs so
# small run but an instant, so that what makes their machine code faster would take longer than all that it saves.
FAST_COMPILE_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
# Later versions have no fusion emitters to leave out, and end at a flag that they do not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FAST_COMPILE_FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", FAST_COMPILE_FLAGS)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
# Where in a file each operation was written: no test reads it, and noting it takes 6% of the time of a pass.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Most programs of tests compile within 20 ms, and are read in a third of that.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# No test outlives a failure of power; hundreds of small runs would wait for the disk. Commands that tests start do sync.
os.fsync = lambda descriptor: None

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "sees",
    "hears",
    "likes",
    "small",
    "old",
    "grey",
    "and",
    "or",
    "but",
    "café",
    "never",
    "always",
    "in",
    "under",
    "house",
    "tree",
]


def pytest_configure(config):
    """Gives signals their usual effect: `nohup make test`, or a job in the background, would start with some ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Counts the tests of each file before `-m` and `-k` deselect some."""
    config.stash[COLLECTED] = counted(items)


def pytest_collection_finish(session):
    """Takes imported modules out of the sight of the garbage collector, which would walk them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    share_contexts()
    share_steps()
    if "train.loop" in sys.modules:
        sys.modules["train.loop"].write_report = lambda run: None


@pytest.hookimpl(trylast=True)  # when fixtures have undone what they patched
def pytest_runtest_teardown(item, nextitem):
    """Lets go of compiled programs after a module if a worker has grown."""
    if nextitem is not None and nextitem.path != item.path:
        drop_grown()


@pytest.fixture
def reports(monkeypatch):
    """Lets trainings write their reports, which take a third of the time of a small training; others leave them out."""
    from train import loop
    from train.report import write_report

    monkeypatch.setattr(loop, "write_report", write_report)


@pytest.fixture
def own_steps():
    """Lets the trainings of a test trace their steps, as the first trainings of a process do."""
    drop_steps()


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory):
    """A folder of eight text files of about 1 kB: sentences of a few words, the same on every machine."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for number in range(8):
        lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 8))) + "." for _ in range(30)]
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_experiment(tiny_text):
    """A function that makes a checked experiment of about 16,000 parameters; takes overrides as `--set` writes them.

    tiny_experiment(training__num_steps=3, model__position="Learned()") changes two fields: `__` stands for a dot, text
    is read as `--set` reads it, and any other value is taken as it is.
    """
    from model.attention.grouped_query import GroupedQuery
    from model.config import ModelConfig
    from model.feedforward.mlp import Gated
    from model.options.assignments import override
    from model.options.tree import check
    from train.data.config import Bytes, Data, Tail
    from train.experiment import Checkpoints, Evaluation, Experiment, Logging, Samples, Training
    from train.optimizers.options import AdamW
    from train.schedules import Cosine

    base = Experiment(
        model=ModelConfig(
            vocab_size=257,
            context_length=32,
            num_layers=2,
            width=32,
            mixer=GroupedQuery(num_heads=4, num_kv_heads=2),
            ffn=Gated(width=64),
        ),
        data=Data(
            path=str(tiny_text),
            tokenizer=Bytes(),
            validation=Tail(fraction=0.1),
            batch_size=8,
            sequence_length=16,
            prefetch=2,
        ),
        training=Training(num_steps=20),
        optimizer=AdamW(weight_decay=0.1),
        schedule=Cosine(peak=1e-2, final=1e-3, warmup_steps=4),
        evaluation=Evaluation(every=10),
        checkpoints=Checkpoints(every=10),
        samples=Samples(prompts=("the ",), length=8),
        logging=Logging(every=1, tensorboard=False),
    )

    def make(**changes):
        experiment = base
        for name, value in changes.items():
            path = name.replace("__", ".")
            if isinstance(value, str):
                experiment = override(experiment, f"{path}={value}")
            else:
                experiment = replace_field(experiment, path.split("."), value)
        check(experiment)
        return experiment

    return make


CONFIG = """import json
from model.options.json import from_json
from train.experiment import Experiment

experiment = from_json(Experiment, json.loads({text!r}))
"""


@pytest.fixture(scope="session")
def write_config():
    """A function that writes an experiment as a config file: write_config(experiment, path)."""
    from model.options.json import to_json

    def write(experiment, path):
        path.write_text(CONFIG.format(text=json.dumps(to_json(experiment))), encoding="utf-8")
        return path

    return write


@pytest.fixture
def random_batch():
    """A function that makes batch n of an experiment out of noise, with documents and padding, as numpy arrays."""
    import numpy as np

    def make(experiment, n=0):
        draw = np.random.default_rng(n)
        shape = (experiment.data.batch_size, experiment.data.sequence_length)
        index = np.arange(shape[1], dtype=np.int32)
        starts = draw.integers(1, shape[1], (shape[0], 1))  # a second document begins here
        ends = draw.integers(shape[1] // 2, shape[1] + 1, (shape[0], 1))  # and padding here
        second, real = index >= starts, index < ends
        return {
            "tokens": draw.integers(0, experiment.model.vocab_size, shape, np.int32),
            "targets": draw.integers(0, experiment.model.vocab_size, shape, np.int32),
            "weights": (real & (index != starts - 1)).astype(np.float32),
            "segment_ids": np.where(real, 1 + second, 0).astype(np.int32),
            "positions": np.where(second, index - starts, index).astype(np.int32),
        }

    return make


@pytest.fixture
def command(capsys):
    """A function that runs a command in this process as a shell would: command("launch.train", "--config=...").

    Returns its exit status and what it printed, standard output and errors together.
    """

    def run(module, *arguments):
        capsys.readouterr()
        status = status_of(module, *arguments)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def replace_field(option, steps, value):
    """A copy of a tree of options with the field at a path replaced."""
    name, *rest = steps
    below = replace_field(getattr(option, name), rest, value) if rest else value
    return dataclasses.replace(option, **{name: below})


@pytest.fixture(scope="session")
def tiny_run(tiny_experiment, tmp_path_factory):
    """The folder of a finished run of 20 steps: metrics, samples, report, two checkpoints. Copy it before changing it."""
    from train.loop import train
    from train.report import write_report

    run = tmp_path_factory.mktemp("runs") / "tiny"
    outcome = train(tiny_experiment(), run, say=lambda line: None)
    assert (outcome.state, outcome.step) == ("finished", 20)
    write_report(run)
    return run
