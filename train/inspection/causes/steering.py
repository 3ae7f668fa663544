"""Steering vectors: a vector that is added to the residual stream after a layer, at every token.

Turner et al. 2023, "Activation Addition: Steering Language Models Without Optimization"; Rimsky et al. 2024, "Steering
Llama 2 via Contrastive Activation Addition", whose vector is a difference of means over contrasting texts. A file of
safetensors holds the vector, and the layer in its metadata.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save_file

from model.config import ModelConfig
from model.errors import UserError
from model.inference.generate import Edits
from model.taps.request import Tap, TapSite
from train.files.paths import local_path

FILE = "steering.safetensors"
FORMAT = "cairn steering vector"


@dataclasses.dataclass(frozen=True)
class SteeringVector:
    """A vector for the stream after a layer: float32 (D,), the number of the layer, the number of layers."""

    vector_D: np.ndarray
    layer: int
    num_layers: int

    def save(self, path: pathlib.Path) -> None:
        """Writes the file."""
        about = {"format": FORMAT, "layer": str(self.layer), "num_layers": str(self.num_layers)}
        save_file({"vector": self.vector_D.astype(np.float32)}, path, about)


@dataclasses.dataclass(frozen=True, eq=False)
class AddVector:
    """An edit that adds a vector; programs that are compiled with it belong to this one object."""

    vector_D: np.ndarray

    def __call__(self, x: jax.Array, site: TapSite) -> jax.Array:
        """The stream with the vector added at every token; with several streams to each of them."""
        return x + jnp.asarray(self.vector_D, jnp.float32).astype(x.dtype)


def load(path: pathlib.Path) -> SteeringVector:
    """Reads the file that `SteeringVector.save` wrote; a folder stands for the file in it. Raises UserError."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--steer: no file {path}; make one with python -m launch.inspect steer")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            about, names = file.metadata() or {}, list(file.keys())
            if about.get("format") != FORMAT or names != ["vector"]:
                raise UserError(f"--steer: {path} is no steering vector; python -m launch.inspect steer writes them")
            return SteeringVector(file.get_tensor("vector"), int(about["layer"]), int(about["num_layers"]))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"--steer: {path} is damaged ({error}); make it again") from None


def edits_of(given: Sequence[str], config: ModelConfig) -> Edits:
    """The edits of values FILE:SCALE for a model.

    Raises:
      UserError: for another form, a file that is no vector or that of another model, and a scale without effect.
    """
    edits = []
    for text in given:
        name, colon, factor = text.rpartition(":")
        try:
            scale = float(factor)
        except ValueError:
            scale = float("nan")
        if not colon or not name or not np.isfinite(scale):
            raise UserError(f"--steer={text[:80]}: expected FILE:SCALE, such as steer/{FILE}:4")
        found = load(local_path(name, "a steering vector"))
        if (found.num_layers, len(found.vector_D)) != (config.num_layers, config.width):
            raise UserError(
                f"--steer: {name} is the vector of a model of {found.num_layers} layers of width "
                f"{len(found.vector_D)}, and this one has {config.num_layers} of width {config.width}"
            )
        added = (scale * found.vector_D).astype(np.float32)
        if not added.any():
            raise UserError(f"--steer={text[:80]}: a vector of zeros changes nothing; give another scale or vector")
        edits.append((Tap("block_output", layers=(found.layer,)), AddVector(added)))
    return tuple(edits)
