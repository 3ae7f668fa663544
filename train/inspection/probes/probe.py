"""The instrument `probe`: linear probes on a tap, layer by layer, with a control task and an interval."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from model.errors import UserError
from train.data.batches.rows import Batch
from train.inspection.features.training.measures import Evaluation
from train.inspection.features.training.settings import Autoencoder, Features, Site
from train.inspection.features.training.stream import FIELDS, ActivationStream
from train.inspection.probes.labels import TASKS, control_labels, kind_of, labels_of
from train.inspection.probes.linear import fit
from train.inspection.result import Result, Table
from train.inspection.subject import Subject, chosen_layers
from train.inspection.text import token_texts
from train.lab.statistics.differences import Difference
from train.lab.statistics.documents import paired_bootstrap
from train.run.loading import LoadedRun

TRAIN_TOKENS = 20_000  # the most that a probe is trained on: activations are held on the host


class Split(NamedTuple):
    """Tokens of some batches that have a label.

    Attributes:
      x: activations (N, D) by site.
      tokens_N, labels_N: ids and labels.
      rows_N: the number of the row that each token comes from.
    """

    x: dict[Site, np.ndarray]
    tokens_N: np.ndarray
    labels_N: np.ndarray
    rows_N: np.ndarray


def inspect(
    run: LoadedRun,
    *,
    task: str = "previous",
    tap: str = "block_output",
    layers: Sequence[int] | None = None,
    batches: int = 8,
    seed: int = 0,
) -> Result:
    """Accuracy of probes on held-out text, less that of the control task.

    Args:
      run: the model.
      task: the labels; see `labels.TASKS`.
      tap: the tap.
      layers: the layers; None for all that have the tap.
      batches: batches to train on, and as many of the validation split to measure on.
      seed: of the control task and of the interval.
    """
    numbers = chosen_layers(Subject.of(run).config, tap, layers)
    places = tuple(Autoencoder(name=f"layer{n}", tap=tap, layer=n) for n in numbers)
    settings = Features(autoencoders=places, batch_tokens=1, buffer_tokens=1, eval_batches=batches)
    stream = ActivationStream(run, settings)
    texts = token_texts(run.tokenizer, np.arange(run.experiment.model.vocab_size))
    kinds_V = np.array([kind_of(text) for text in texts])
    training = stream.data.training_batches(run.dataset(), FIELDS)
    names = labels_of(task, training.rows(0), kinds_V).names
    fitted = _read(stream, (training.rows(n) for n in range(batches)), task, kinds_V, TRAIN_TOKENS)
    held = _read(stream, iter(Evaluation(stream, settings).batches), task, kinds_V, None)
    for split, where in ((fitted, "training"), (held, "validation")):
        if len(np.unique(split.labels_N)) < 2 or len(np.unique(split.rows_N)) < 2:
            raise UserError(f"--task={task}: the {where} text has one label, or one row, alone; read more --batches")
    control_V = control_labels(fitted.labels_N, fitted.tokens_N, len(kinds_V), seed)
    majority = float(np.mean(held.labels_N == np.bincount(fitted.labels_N).argmax()))
    rows, found = [], {}
    for number, site in zip(numbers, stream.sites, strict=True):
        hits = {
            "task": _hits(fitted, held, site, fitted.labels_N, held.labels_N, len(names)),
            "control": _hits(fitted, held, site, control_V[fitted.tokens_N], control_V[held.tokens_N], len(names)),
        }
        selectivity = _difference(hits["control"], hits["task"], held.rows_N, seed)
        accuracy = {name: float(np.mean(each)) for name, each in hits.items()}
        found[str(number)] = accuracy | {
            "selectivity": selectivity.mean,
            "low": selectivity.low,
            "high": selectivity.high,
        }
        interval = f"{selectivity.mean:.3f} [{selectivity.low:.3f}, {selectivity.high:.3f}]"
        rows.append([f"layer {number}", f"{accuracy['task']:.3f}", f"{accuracy['control']:.3f}", interval])
    count = len(np.unique(held.rows_N))
    return Result(
        title=f"Linear probes of {tap}",
        about=f"{run.folder}, step {run.step:,} \u00b7 {task}: {TASKS[task]} \u00b7 {len(held.labels_N):,} held-out "
        "tokens",
        numbers={"task": task, "tap": tap, "majority": majority, "layers": found, "labels": names},
        arrays={"selectivity": np.array([found[str(n)]["selectivity"] for n in numbers]), "layers": np.array(numbers)},
        parts=[
            Table(
                title="Accuracy",
                head=("", "task", "control task", "selectivity [95%]"),
                rows=rows,
                caption=f"The most frequent label alone has {majority:.3f}. The control task gives each token type a "
                f"random label (Hewitt, Liang 2019); selectivity is the task less the control, with a bootstrap over "
                f"{count:,} rows of held-out text. A control label depends on the token alone, so "
                "that a probe predicts it by remembering tokens. Selectivity above 0: the activation tells more of the "
                "task than of the token. Around 0 or below: the probe tells tokens apart at least as well as the task, "
                "so its accuracy does not show that the model computes the task there.",
            )
        ],
        notes=[] if count >= 50 else [f"{count} rows of held-out text: expect the intervals to be too narrow."],
        lines=[" ".join([row[0], "task", row[1], "control", row[2], "selectivity", row[3]]) for row in rows],
    )


def _read(
    stream: ActivationStream, batches: Iterator[Batch], task: str, kinds_V: np.ndarray, most: int | None
) -> Split:
    """The labelled tokens of batches; the first `most` of them."""
    compiled = jax.jit(stream.activations)
    x: dict[Site, list[np.ndarray]] = {site: [] for site in stream.sites}
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number, batch in enumerate(batches):
        labels_BT = labels_of(task, batch, kinds_V).labels_BT
        known_BT = labels_BT >= 0
        found = compiled(stream.run.params, stream.to_devices(batch))
        for site, values in found.items():
            x[site].append(np.asarray(values, np.float32)[known_BT])
        rows_BT = np.broadcast_to(np.arange(len(labels_BT))[:, None] + number * len(labels_BT), labels_BT.shape)
        parts.append((batch["tokens"][known_BT], labels_BT[known_BT], rows_BT[known_BT]))
    tokens, labels, rows = (np.concatenate(each)[:most] for each in zip(*parts, strict=True))
    return Split({site: np.concatenate(each)[:most] for site, each in x.items()}, tokens, labels, rows)


def _hits(
    fitted: Split, held: Split, site: Site, labels: np.ndarray, held_labels: np.ndarray, classes: int
) -> np.ndarray:
    """Whether a probe predicts each held-out label."""
    return np.asarray(fit(fitted.x[site], labels, classes).predict(held.x[site]) == held_labels)


def _difference(control: np.ndarray, task: np.ndarray, rows_N: np.ndarray, seed: int) -> Difference:
    """The difference of accuracies with an interval, rows of text as units."""
    _, place = np.unique(rows_N, return_inverse=True)
    counts = np.bincount(place)
    sums = [np.bincount(place, weights=hits) for hits in (control, task)]
    return paired_bootstrap(sums[0], counts, sums[1], counts, draws=2000, seed=seed)
