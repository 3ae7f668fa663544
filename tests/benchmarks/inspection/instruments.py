"""Processor time and peak memory of instruments of launch.inspect on a random model of GPT-2's shape, in float32.

    python -m tests.benchmarks.inspection.instruments [--rounds=3] [--tokens=64] [--only=lens,patch]

Each instrument runs in a process of its own: once with compilation, then --rounds times more. Seconds are those of the
processor, all threads together, so that other work beside it counts little. Memory is the peak of resident memory of
the process in those rounds beyond the parameters (0.50 GB). The texts are bytes. Instruments that read the data of a run
get one of 85 million parameters (0.34 GB): 12 layers of the same shapes, whose vocabulary is the bytes; 512 tokens a
batch. The autoencoders have 6,144 features: `features` trains one for 8 steps of 512 tokens, with two evaluations of
1,024; `feature-texts` reads a random one.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.benchmarks.command import ROOT, run
from tests.benchmarks.repeats import extremes

TEXT = "A model of the shape of GPT-2 looks at the tokens of this text, which it never learned. "
NEED_DATA = ("neurons", "probe", "features", "feature-texts")
FEATURES = """
from train.inspection.features.autoencoders import TopK
from train.inspection.features.training.settings import Autoencoder, Features

top_k = Autoencoder(name="top_k", layer=-2, width=6144, architecture=TopK(k=32))
features = Features(
    autoencoders=(top_k,), num_steps=8, batch_tokens=512, buffer_tokens=2048, eval_batches=2, save_every=8
)
"""
CALLS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "neighbours": {"words": ["a", "b"]},
    "map": {},
    "attention": {},
    "heads": {"half": 32, "sequences": 4},
    "lens": {},
    "lens --tuned --steps=2": {"tuned": True, "steps": 2, "corpus": TEXT * 20},
    "logits": {},
    "stream": {},
    "ablate --taps=mixer_output": {"taps": ["mixer_output"]},
    "patch --taps=block_output (8 positions)": {"taps": ["block_output"], "answer": "a", "wrong": "b"},
    "analogies": {"analogies": ["a b c d"]},
    "paths": {"answer": "a", "wrong": "b"},
    "neurons": {},
    "feature-texts": {},
    "probe --batches=4 --task=kind": {"batches": 4, "task": "kind"},
    "features": {},
    "steer": {"positive": [TEXT[:30], TEXT[:20]], "negative": [TEXT[5:30], TEXT[3:33]]},
}


def model() -> Any:
    """The random model as a loaded run, with a tokenizer of bytes whose vocabulary is as large as the model's."""
    import jax

    from model.families.sizes import published
    from model.transformer import init
    from train.config_file import from_file
    from train.data.config import Bytes
    from train.data.tokenizers.interface import BytesTokenizer
    from train.parallel.mesh import parse_mesh
    from train.parallel.mesh_choice import requested_mesh
    from train.run.loading import LoadedRun

    class WideBytes(BytesTokenizer):
        """Bytes, and further ids that stand for bytes too."""

        def checked_ids(self, ids: Any) -> list[int]:
            return [i % 256 for i in super().checked_ids(ids)]

    config = published("gpt2")
    experiment = dataclasses.replace(from_file(str(ROOT / "configs" / "quickstart.py")), model=config)
    choice = requested_mesh(config, parse_mesh("data=1"), experiment.sharding)
    params = jax.jit(lambda: init(config, jax.random.key(0)))()
    tokenizer = WideBytes(Bytes())
    tokenizer.vocab_size = config.vocab_size
    folder = pathlib.Path("gpt2")
    return LoadedRun(folder, experiment, params, choice.mesh, choice.layout, tokenizer, 0)


def run_with_data(folder: pathlib.Path) -> Any:
    """A run of one step of the same shapes on random words."""
    from tests.benchmarks.features.speed import made_run
    from train.run.loading import load_run

    return load_run(made_run(folder, layers=12, length=128, rows=4))


def prepared(what: str, loaded: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Flags of instruments of autoencoders: a config and a new folder, or a folder with a random autoencoder."""
    if what == "features":
        config = folder / "features.py"
        config.write_text(FEATURES)
        return {"config": str(config), "folder": pathlib.Path(tempfile.mkdtemp(dir=folder)) / "features"}
    if what == "feature-texts":
        return {"autoencoder": str(random_autoencoder(loaded, folder / "random"))}
    return {}


def random_autoencoder(loaded: Any, folder: pathlib.Path) -> pathlib.Path:
    """Writes a ReLU autoencoder of 6,144 features of the last layer but one; returns its folder."""
    import numpy as np

    from train.inspection.features.autoencoders import ReLU
    from train.inspection.features.training.folder import source_of
    from train.inspection.features.training.sae_lens import write_autoencoder
    from train.inspection.features.training.settings import Autoencoder

    option = Autoencoder(name="random", layer=-2, width=6144, architecture=ReLU())
    model = loaded.experiment.model
    decoder = np.random.default_rng(0).normal(size=(option.width, model.width)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    params = {"encoder": decoder.T, "decoder": decoder, "decoder_bias": np.zeros(model.width, np.float32)}
    params |= {name: np.asarray(x) for name, x in option.architecture.own_parameters(option.width).items()}
    sites = option.sites(model.num_layers)
    write_autoencoder(folder, option, params, sites, source_of(loaded), model.context_length)
    return folder


def measure(name: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Runs one instrument in this process."""
    import jax

    from train.inspection.table import INSTRUMENTS, function_of
    from train.inspection.vocabulary.tokens import Named

    what = name.split()[0]
    instrument = INSTRUMENTS[what]
    folder = pathlib.Path(tempfile.mkdtemp())
    loaded = run_with_data(folder) if what in NEED_DATA else model()
    call, given = function_of(instrument), dict(CALLS[name])
    text = (TEXT * (tokens // len(TEXT) + 1))[: tokens - 1]
    if "text" in instrument.flags and what != "map":
        given["text"] = text
    if "corrupt" in instrument.flags:
        given["corrupt"] = text[:-8] + "X" + text[-7:]
    subject = loaded if instrument.reads_weights else Named(loaded.folder, loaded.tokenizer)
    seconds = []
    for round_number in range(rounds + 1):
        given |= prepared(what, loaded, folder)
        if round_number == 1:
            before = _reset_peak()
        begin = time.process_time()
        call(subject, **given)
        seconds.append(time.process_time() - begin)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params))
    shutil.rmtree(folder)
    return {"first": seconds[0], "seconds": seconds[1:], "peak": _memory("VmHWM"), "before": before, "parameters": size}


def _memory(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def _reset_peak() -> int:
    """Makes the peak of resident memory begin anew; returns the memory now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def main() -> None:
    """Starts a process for each instrument and prints a line of a table for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", default="")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(measure(given.child, given.rounds, given.tokens)))
        return
    only = [name for name in given.only.split(",") if name]
    print("| instrument | with compilation, processor s | then: median [least, most] | peak beyond parameters, GB |")
    print("| --- | --- | --- | --- |")
    for name in CALLS:
        if only and name.split()[0] not in only:
            continue
        command = [sys.executable, "-m", __spec__.name, f"--rounds={given.rounds}", f"--tokens={given.tokens}"]
        done = subprocess.run([*command, f"--child={name}"], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(f"| {name} | failed: {done.stderr.strip().splitlines()[-1]} |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        times, beyond = found["seconds"], max(found["peak"] - found["parameters"], 0)
        print(f"| {name} | {found['first']:.1f} | {extremes(times):.2f} | {beyond / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    run(main)
