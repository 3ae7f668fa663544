"""Models that `transformers` has no class for, as plain NumPy loops in float64.

Each family has a file that gives the shapes of its tensors and the equations of one row of tokens (grok.py, internlm2.py,
baichuan.py); nothing of Cairn takes part. Gradients are central differences of the loss, one number after the other.
"""

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Callable

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.parity.cases import CASES
from tests.parity.shapes import PROMPTS

NEW_TOKENS, STEP = 64, 1e-5


@dataclasses.dataclass
class Model:
    """config.json and the tensors by name."""

    config: dict
    tensors: dict


@dataclasses.dataclass(frozen=True)
class Source:
    """A family as its equations; it has the functions of tests/parity/reference.py.

    Attributes:
      architecture: the name of its class in config.json.
      shapes: returns the shape of each tensor by its name, from a config.json.
      row: returns the logits (T, V) of a row of tokens, from a config.json and the tensors.
    """

    architecture: str
    shapes: Callable[[dict], dict]
    row: Callable[[dict, dict, np.ndarray], np.ndarray]

    def make(self, family, shape):
        """Returns the model of a case, with weights that bfloat16 stores exactly."""
        config = CASES[family][shape]
        rng = np.random.default_rng(zlib.crc32(f"{family} {shape}".encode()))
        tensors = {}
        for name, its in self.shapes(config).items():
            x = rng.standard_normal(its)
            if len(its) > 1:
                x = x * 1.2 / np.sqrt(its[-1])
            else:
                x = 0.3 * x + (not name.endswith("bias"))
            tensors[name] = x.astype(ml_dtypes.bfloat16).astype(np.float64)
        return Model(config, tensors)

    def save(self, model, folder):
        """Writes the model in the format of published models."""
        fields = {"architectures": [self.architecture]} | model.config
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
        tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in model.tensors.items()}
        save_file(tensors, pathlib.Path(folder) / "model.safetensors")

    def logits(self, model, ids):
        """Returns logits (B, T, V)."""
        return np.stack([self.row(model.config, model.tensors, row) for row in np.asarray(ids)])

    def gradients(self, model, ids, folder=None):
        """Returns the gradient of the mean next-token cross-entropy, by the names of tensors."""
        found = {name: np.zeros(x.shape) for name, x in model.tensors.items()}
        for name, x in model.tensors.items():
            for index in np.ndindex(x.shape):
                before, ends = x[index], []
                for step in (STEP, -STEP):
                    x[index] = before + step
                    ends.append(self._loss(model, ids))
                x[index] = before
                found[name][index] = (ends[0] - ends[1]) / (2 * STEP)
        return found

    def greedy(self, model, ids):
        """Returns the greedily generated tokens of both prompts, each computed alone."""
        rows = []
        for row, length in zip(ids, PROMPTS, strict=True):
            tokens = list(row[:length])
            for _ in range(NEW_TOKENS):
                tokens.append(int(self.row(model.config, model.tensors, np.array(tokens))[-1].argmax()))
            rows.append(tokens[length:])
        return rows

    def _loss(self, model, ids):
        z = self.logits(model, ids)[:, :-1]
        z = z - z.max(-1, keepdims=True)
        z = z - np.log(np.exp(z).sum(-1, keepdims=True))
        return -np.take_along_axis(z, np.asarray(ids)[:, 1:, None], -1).mean()


def layer_tensors(tensors, layer):
    """Returns the tensors of a layer by their names within it."""
    prefix = f"model.layers.{layer}."
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def rms_norm(x, scale, epsilon):
    """Returns rows divided by their root mean square, times `scale`."""
    return scale * x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


def rotate(x, theta=10_000.0, divisor=1.0):
    """Rotates the pairs (i, i + H/2) of heads (T, N, H) by position / divisor * theta^(-2i/H)."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] / divisor * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def attend(q, k, v, scores_of=lambda scores, head: scores):
    """Returns the heads (T, N H) of causal attention; `scores_of` changes the products (T, S) of a head."""
    length, heads, keys = len(q), q.shape[1], k.shape[1]
    seen, out = np.tril(np.ones((length, length), bool)), []
    for head in range(heads):
        key = head // (heads // keys)
        scores = scores_of(q[:, head] @ k[:, key].T, head)
        weights = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True)), 0)
        out.append(weights / weights.sum(-1, keepdims=True) @ v[:, key])
    return np.concatenate(out, -1)


def silu(x):
    """x times its sigmoid."""
    return x / (1 + np.exp(-x))
