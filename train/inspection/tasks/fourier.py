"""The instrument `fourier`: the waves with which a model of modular addition computes.

Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability", sections 4.1 and 4.2: the
embedding has few frequencies, and the logit of c is a sum of cos(2 pi k (a + b - c) / p) over them.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from model.taps.request import Tap
from model.transformer import logits, stream
from train.evaluation.probes.modular import ModularAddition
from train.inspection.result import Charts, Result, Table
from train.inspection.subject import Subject
from train.inspection.tasks.task import task_of
from train.report.drawing import Chart, Palette, draw_svg
from train.run.loading import LoadedRun
from train.run.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEY_SHARE = 0.05  # of the logits' waves that a frequency needs to be a key frequency


def inspect(run: LoadedRun) -> Result:
    """Spectra of the embedding and of the logits, and the curves of the run.

    Raises UserError for a run that was not trained on modular addition.
    """
    task, subject = task_of(run, ModularAddition, "configs/modular_addition.py"), Subject.of(run)
    p = task.modulus
    logits_abc, embedding_pD = _computed(subject, task)
    of_embedding, of_logits = spectrum(embedding_pD), logit_spectrum(logits_abc)
    shares = {part: accuracy(logits_abc, task.for_split(part).pairs()) for part in ("train", "validation")}
    explained = explained_by_waves(logits_abc, key_frequencies(of_logits))
    keys = [int(k) for k in key_frequencies(of_logits)]
    curves = _curves(run)
    about = f"{run.folder}, step {run.step:,} \u00b7 (a + b) mod {p}, {task.share:.0%} of {p * p:,} pairs trained on"
    rows = [
        ["accuracy on the pairs that were trained on", f"{shares['train']:.2%}"],
        ["accuracy on all others", f"{shares['validation']:.2%}"],
        ["key frequencies", ", ".join(map(str, keys))],
        ["variance of the logits that waves of key frequencies in a + b - c have", f"{explained:.1%}"],
        ["share of the embedding at key frequencies", f"{sum(of_embedding[k - 1] for k in keys):.1%}"],
    ]
    return Result(
        title="Fourier picture of modular addition",
        about=about,
        numbers={"accuracy": shares, "key_frequencies": keys, "explained": explained},
        arrays={"embedding": of_embedding, "logits": of_logits},
        parts=[
            Table(title="Measures", head=("", "value"), rows=rows),
            Charts(
                charts=[
                    _bars("Embedding", "share of the embedding table at each frequency", of_embedding),
                    _bars("Logits", "share of the logits' waves in a + b - c", of_logits),
                    *curves,
                ],
                title="Spectra and curves",
            ),
        ],
        lines=[": ".join(row) for row in rows],
    )


def _computed(subject: Subject, task: ModularAddition) -> tuple[np.ndarray, np.ndarray]:
    """The logits (p, p, p) of c after every pair a, b, and the embeddings (p, D) of the numbers."""
    p, config = task.modulus, subject.config
    every = np.stack(np.divmod(np.arange(p * p), p), axis=1)
    tokens_NT = task.of_pairs(every).tokens
    rows = -(-len(tokens_NT) // 8) * 8  # for a mesh that splits them
    padded = np.concatenate([tokens_NT, tokens_NT[: rows - len(tokens_NT)]])

    def found(params: Any, tokens_BT: jax.Array) -> Any:
        output = stream(config, params, tokens_BT, layout=subject.layout, taps=(Tap("embedding"),))
        last = logits(config, params, output.stream_BTD[:, -1:], layout=subject.layout)[:, 0, :p]
        return last, output.taps["embedding"][:, 0]

    last, first = subject.compiled(found)(padded.astype(np.int32))
    logits_abc = np.asarray(last[: p * p], np.float64).reshape(p, p, p)
    return logits_abc, np.asarray(first[: p * p : p], np.float64)  # pairs (a, 0): the table with position 0 added


def spectrum(table_pD: np.ndarray) -> np.ndarray:
    """The share of a table's variance over numbers at frequencies 1 to p // 2."""
    power = np.square(np.abs(np.fft.rfft(table_pD, axis=0)))[1:].sum(axis=1)
    shares: np.ndarray = power / power.sum()
    return shares


def by_difference(logits_abc: np.ndarray) -> np.ndarray:
    """The mean logit as a function of c - a - b mod p, (p,), of logits less their mean over c."""
    p = len(logits_abc)
    centred = logits_abc - logits_abc.mean(axis=2, keepdims=True)
    a, b, d = np.meshgrid(np.arange(p), np.arange(p), np.arange(p), indexing="ij")
    means: np.ndarray = centred[a, b, (a + b + d) % p].mean(axis=(0, 1))
    return means


def logit_spectrum(logits_abc: np.ndarray) -> np.ndarray:
    """The share at frequencies 1 to p // 2 of the logits as a function of a + b - c."""
    return spectrum(by_difference(logits_abc)[:, None])


def key_frequencies(shares: np.ndarray) -> np.ndarray:
    """The frequencies with more than `KEY_SHARE`, the largest first."""
    order = np.argsort(-shares)
    return order[shares[order] > KEY_SHARE] + 1


def explained_by_waves(logits_abc: np.ndarray, frequencies: np.ndarray) -> float:
    """The share of the variance of all logits (over c) that sums of waves in a + b - c explain."""
    p = len(logits_abc)
    centred = logits_abc - logits_abc.mean(axis=2, keepdims=True)
    coefficients = np.fft.fft(by_difference(logits_abc))
    kept = np.zeros_like(coefficients)
    for k in frequencies:
        kept[[k, p - k]] = coefficients[[k, p - k]]
    waves = np.fft.ifft(kept).real
    a, b, c = np.meshgrid(np.arange(p), np.arange(p), np.arange(p), indexing="ij")
    error = centred - waves[(c - a - b) % p]
    return float(1 - np.square(error).sum() / np.square(centred).sum())


def accuracy(logits_abc: np.ndarray, pairs: np.ndarray) -> float:
    """The share of pairs whose likeliest c is their sum."""
    found = logits_abc[pairs[:, 0], pairs[:, 1]].argmax(axis=1)
    return float(np.mean(found == pairs.sum(axis=1) % len(logits_abc)))


def _bars(title: str, caption: str, shares: np.ndarray) -> Chart:
    def draw(axes: "Axes", colors: Palette) -> None:
        axes.bar(np.arange(1, len(shares) + 1), shares, color=colors.train)
        axes.set_xlabel("frequency")
        axes.set_ylabel("share")

    svg = draw_svg(f"spectrum-{title}", draw, width=4.2, height=2.6, label=caption)
    return Chart(title=title, caption=caption.capitalize() + ".", svg=svg)


def _curves(run: LoadedRun) -> list[Chart]:
    """Training and validation loss over steps, on logarithmic axes."""
    lines = read_metrics(run.folder)
    kinds = {
        "training pairs": [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"],
        "other pairs": [
            (line["step"], line["loss"]) for line in lines if line["kind"] == "eval" and "name" not in line
        ],
    }
    if not all(kinds.values()):
        return []

    def draw(axes: "Axes", colors: Palette) -> None:
        for (name, points), color in zip(kinds.items(), (colors.train, colors.validation), strict=True):
            axes.plot(*zip(*points, strict=True), color=color, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats")
        axes.legend(frameon=False, labelcolor=colors.muted)

    svg = draw_svg("grokking", draw, width=4.2, height=2.6, label="loss of both kinds of pairs over steps")
    return [Chart(title="Loss over steps", caption="The pairs that are trained on, and all others.", svg=svg)]
