"""Autoencoders that Cairn writes, as SAELens reads and runs them.

    python -m tests.parity.inspection.sae_lens [--python=PATH]

`--python` is the Python of an environment with the extra `parity-autoencoders`; this one by default. Every architecture
that SAELens knows is written with random weights, read there by `SAE.load_from_disk`, and run on the same activations.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.inspection.sae_lens_reference import D_IN, D_OUT, D_SAE, inputs
from train.inspection.features.autoencoders import BatchTopK, Gated, JumpReLU, ReLU, TopK
from train.inspection.features.training.folder import Source
from train.inspection.features.training.measures import write
from train.inspection.features.training.sae_lens import write_autoencoder
from train.inspection.features.training.settings import Autoencoder, Site

ARCHITECTURES = {"relu": ReLU(), "gated": Gated(), "jump": JumpReLU(), "top": TopK(k=5), "batch": BatchTopK(k=5)}
TOLERANCE = 1e-4  # absolute, of outputs of about 5


def autoencoders():
    """Yields options with the width of their output."""
    for name, architecture in ARCHITECTURES.items():
        yield Autoencoder(name=name, width=D_SAE, architecture=architecture), D_IN
    for name in ("relu", "jump"):
        places = {"tap": "mixer_output", "output_tap": "ffn_output"}
        yield Autoencoder(name=f"{name}_through", width=D_SAE, architecture=ARCHITECTURES[name], **places), D_OUT


def params_of(option, outputs):
    """Random parameters."""
    draw = np.random.default_rng(1)
    own = jax.device_get(option.architecture.own_parameters(option.width))
    moved = {name: np.asarray(x + np.abs(draw.normal(size=x.shape)) * 0.3, np.float32) for name, x in own.items()}
    shapes = {"encoder": (D_IN, D_SAE), "decoder": (D_SAE, outputs), "decoder_bias": (outputs,)}
    return moved | {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def main():
    """Writes, lets SAELens read, compares; exits with 1 for a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the Python that has sae_lens")
    given = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        expected = {}
        for option, outputs in autoencoders():
            params = params_of(option, outputs)
            sites = Site("block_output", 0), Site("block_output" if outputs == D_IN else "ffn_output", 0)
            write_autoencoder(pathlib.Path(folder) / option.name, option, params, sites, Source("run", 1, "0" * 32), 8)
            in_jax = {name: jnp.asarray(x) for name, x in params.items()}
            expected[option.name] = [np.asarray(x[0]) for x in write(option, in_jax, inputs()[None])]
        reading = [given.python, "-m", "tests.parity.inspection.sae_lens_reference", f"--read={folder}"]
        subprocess.run(reading, check=True, stdout=subprocess.DEVNULL)
        for name, arrays in expected.items():
            with np.load(pathlib.Path(folder) / name / "outputs.npz") as found:
                errors = [float(np.abs(x - found[key]).max()) for key, x in zip(("features", "output"), arrays)]
            worst = max(worst, *errors)
            print(f"{name:14} features {errors[0]:.1e}  output {errors[1]:.1e}")
    sys.exit(0 if worst < TOLERANCE else 1)


if __name__ == "__main__":
    main()
