"""Ablation: the loss of a text when a sublayer or a head is replaced by zero, by its mean, or by that of other text.

A mean is over all tokens of a reference text. `resample` takes the activations of the same positions of windows of the
reference, drawn at random, and gives the mean loss over the draws; of the text itself, in another order of its tokens.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.options.words import nearest
from model.taps.meanings import TAPS
from model.taps.request import Tap
from model.transformer import logits
from train.inspection.causes.replace import (
    OF_HEADS,
    Part,
    Replacement,
    Replacer,
    chosen_taps,
    groups_of,
    num_units,
    refuse_no_change,
    replaced_together,
)
from train.inspection.choice import Heads, heads_in, positions_in
from train.inspection.page.page import packed
from train.inspection.result import Result, Table, Widget
from train.inspection.source import notes_of, subject_of, words_on
from train.inspection.subject import Subject
from train.inspection.text import encode, read
from train.run.loading import LoadedRun

KINDS = ("zero", "mean", "resample")
DEFAULT_TAPS = ("mixer_output", "cross_output", "ffn_output", "mixer_heads", "cross_heads")
DRAWS = 4
MAX_TOKENS = 256


def inspect(
    run: LoadedRun,
    *,
    text: str,
    source: str | None = None,
    taps: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[str] | None = None,
    positions: Sequence[int] | None = None,
    by: str = "mean",
    reference: str | None = None,
    seed: int = 0,
) -> Result:
    """The rise of the loss of a text when each layer's tap, or each head of it, is replaced.

    Args:
      run: the model.
      text: the text; for a model with an encoder, the target.
      source: the text that an encoder reads, beside the reference too; None for a model without one.
      taps: the taps to replace; None for the outputs of mixers, of cross-attention, of feed-forwards and of heads.
      layers: the layers to replace them in; None for all that have them.
      heads: the heads to replace, each by itself and all of them together, such as 1.4 for head 4 of layer 1; None for
        each of the layers.
      positions: the tokens to replace them at, -1 for the last; None for all.
      by: zero, mean, or resample.
      reference: the text of the mean and of other activations; None for the text itself.
      seed: the seed of draws.
    """
    if by not in KINDS:
        raise UserError(f"--by={by[:40]!r} is no ablation; {nearest(by, KINDS)}")
    if by == "zero" and reference is not None:
        raise UserError("--reference has no effect with --by=zero; leave it out")
    subject, read_too = subject_of(run, source)
    tokens = read(run, text, least=2, most=MAX_TOKENS)
    usual = DEFAULT_TAPS if heads is None else tuple(name for name in DEFAULT_TAPS if TAPS[name].axes in OF_HEADS)
    known = chosen_taps(subject.config, taps, usual)
    at = tuple(range(len(tokens)) if positions is None else positions_in(tokens, positions))
    other, notes = (tokens.ids, []) if reference is None else _reference(run, reference, by)
    measure = _loss_of(subject, tokens.ids)
    losses: dict[str, dict[int, np.ndarray]] = {}
    together: dict[str, float] = {}
    base = float("nan")
    for name in known:
        units, losses[name], draws = _units(subject, name, layers, heads), {}, []
        for group in groups_of(subject.config, name, list(units)):
            replacer = Replacer(subject, name, group, measure)
            base = float(replacer.unchanged(tokens.ids))
            count = num_units(subject.config, name, group[0])
            wanted = [Replacement(n, at, None if count == 1 else (u,)) for n in group for u in units[n]]
            choices = _choices(replacer, tokens.ids, other, by, wanted, seed)
            found = iter(np.mean([replacer(tokens.ids, values, wanted) for values in choices], axis=0) - base)
            for n in group:
                losses[name][n] = np.full(count, np.nan)
                losses[name][n][units[n]] = [next(found) for _ in units[n]]
            mask_LTU = np.zeros((len(group), len(tokens), count), bool)
            for row, n in enumerate(group):
                mask_LTU[np.ix_([row], at, units[n])] = True
            draws.append([Part(group, values, mask_LTU) for values in choices])
        if heads is not None:
            all_parts = zip(*draws, strict=True)
            losses_together = [replaced_together(subject, name, tokens.ids, each, measure) for each in all_parts]
            together[name] = float(np.mean(losses_together)) - base
    return Result(
        title=f"Ablation by {by}",
        about=f"{run.folder}, step {run.step:,} \u00b7 {len(tokens):,} tokens{words_on(read_too)}, "
        f"loss {base:.4f} nats",
        numbers={
            "loss": base,
            "by": by,
            "positions": at,
            "rise": losses,
            **({} if heads is None else {"together": together}),
            "tokens": list(tokens.texts),
        },
        arrays={f"{name}_{n}": x for name, rows in losses.items() for n, x in rows.items()},
        parts=[*_maps(losses), *([] if heads is None else [_together(losses, together)]), _table(losses)],
        notes=[*tokens.notes, *notes_of(read_too), *notes],
        lines=[
            f"loss {base:.4f} nats",
            *(f"{name}, these heads together: {x:+z.4f}" for name, x in together.items()),
            *(f"{a}: {x:+z.4f}" for a, x in _ranked(losses)),
        ],
    )


def _units(
    subject: Subject, name: str, layers: Sequence[int] | None, heads: Sequence[str] | None
) -> dict[int, list[int]]:
    """The units of a tap to replace, by layer. Raises UserError for layers and heads that are not there."""
    config = subject.config
    if heads is None:
        numbers = [n for group in groups_of(config, name, layers) for n in group]
        return {n: list(range(num_units(config, name, n))) for n in numbers}
    if TAPS[name].axes not in OF_HEADS:
        raise UserError(f"--heads: the tap {name!r} has no heads; take --taps=mixer_heads, query, key or value")
    counts = {n: num_units(config, name, n) for group in groups_of(config, name, None) for n in group}
    try:
        (chosen,) = heads_in([Heads(config.num_layers, counts)], heads, layers)
    except UserError as error:
        raise UserError(f"tap {name!r}: {error}") from None
    return chosen


def _reference(run: LoadedRun, reference: str, by: str) -> tuple[np.ndarray, list[str]]:
    """The tokens of the reference that are read, and a sentence on those that are not: a mean is that of one pass."""
    ids = encode(run.tokenizer, reference, "reference").astype(np.int32)
    if len(ids) < 2:
        raise UserError(f"--reference: the text has {len(ids)} tokens, and 2 are needed")
    limit = run.experiment.model.context_length
    if by != "mean" or len(ids) <= limit:
        return ids, []
    reason = "the model's context holds no more"
    return ids[:limit], [f"--reference has {len(ids):,} tokens; the mean is that of its first {limit:,}: {reason}."]


def _loss_of(subject: Subject, ids: np.ndarray) -> Any:
    next_T = jnp.asarray(ids[1:])

    def loss(params: Any, output: Any) -> jax.Array:
        z_BTV = logits(subject.config, params, output.stream_BTD, layout=subject.layout)[:, :-1].astype(jnp.float32)
        log_p = jax.nn.log_softmax(z_BTV)
        return -jnp.mean(jnp.take_along_axis(log_p, next_T[None, :, None], axis=-1)[..., 0], axis=1)

    return loss


def _choices(
    replacer: Replacer, ids: np.ndarray, other: np.ndarray, by: str, wanted: list[Replacement], seed: int
) -> list[np.ndarray]:
    """The activations (L, T, ...) that replace the tap's: one or, of other activations, as many as there are draws.

    Raises UserError where none of the wanted replacements changes an activation.
    """
    before = replacer.activations(ids)
    draw = np.random.default_rng(seed)
    length = len(ids)
    if by == "zero":
        choices = [np.zeros_like(before)]
    elif by == "mean":
        seen = before if other is ids else _activations(replacer, other)
        mean = seen.mean(axis=1, keepdims=True)
        choices = [np.broadcast_to(mean, before.shape)]
    else:
        choices = []
        for _ in range(DRAWS):
            window = other[int(draw.integers(0, max(1, len(other) - length + 1))) :][:length]
            whole = np.resize(window, length) if len(window) < length else window
            order = draw.permutation(length) if other is ids else np.arange(length)
            choices.append(replacer.activations(whole)[:, order])
    changed = [replacer.changes(before, values, each) for values in choices for each in wanted]
    refuse_no_change(replacer.name, changed, f"they are equal to their {by} already")
    return choices


def _activations(replacer: Replacer, ids: np.ndarray) -> np.ndarray:
    """The tap of a text of any length, (L, T, ...); the replacer reads texts of the length that it measures."""
    return replacer.subject.taps(ids[None], Tap(replacer.name, layers=replacer.layers))[replacer.name][:, 0]


def _maps(losses: dict[str, dict[int, np.ndarray]]) -> list[Widget]:
    widgets = []
    single = {name: rows for name, rows in losses.items() if all(len(x) == 1 for x in rows.values())}
    most = max((float(np.nanmax(np.abs(x))) for rows in losses.values() for x in rows.values()), default=1.0)
    colors = {"low": -most, "high": most, "rowName": "layer"}
    if single:
        layers = sorted({n for rows in single.values() for n in rows})
        values = np.array([[rows[n][0] if n in rows else np.nan for rows in single.values()] for n in layers])
        data = {"rows": layers, "columns": list(single), "values": packed(values), "columnName": "tap", **colors}
        widgets.append(Widget(name="heatmap", title="Rise of the loss, nats", data=data))
    for name, rows in losses.items():
        if name in single:
            continue
        widest = max(map(len, rows.values()))
        values = np.array([[*x, *[np.nan] * (widest - len(x))] for x in rows.values()])
        data = {"rows": list(rows), "columns": list(range(widest)), "values": packed(values), "columnName": "head"}
        dash = "A dash, in a cell or when it is pointed at, is a head that was not to be replaced, or is not there."
        caption = dash if np.isnan(values).any() else ""
        title = f"Rise of the loss by head ({name}), nats"
        widgets.append(Widget(name="heatmap", title=title, data=data | colors, caption=caption))
    return widgets


def _ranked(losses: dict[str, dict[int, np.ndarray]]) -> list[tuple[str, float]]:
    entries = [
        (f"{name}, layer {n}" + (f", head {u}" if len(x) > 1 else ""), float(rise))
        for name, rows in losses.items()
        for n, x in rows.items()
        for u, rise in enumerate(x)
        if np.isfinite(rise)
    ]
    return sorted(entries, key=lambda entry: -abs(entry[1]))[:12]


def _together(losses: dict[str, dict[int, np.ndarray]], together: dict[str, float]) -> Table:
    rows = []
    for name, rise in together.items():
        heads = [f"{n}.{u}" for n, x in losses[name].items() for u in np.flatnonzero(np.isfinite(x))]
        alone = sum(float(np.nansum(x)) for x in losses[name].values())
        rows.append([name, ", ".join(heads), f"{rise:+z.4f}", f"{alone:+z.4f}"])
    return Table(
        title="These heads together",
        head=["tap", "heads", "rise of the loss, nats", "sum of each by itself"],
        rows=rows,
        caption="Where all of them together raise the loss more than the sum, one may take over what another did.",
    )


def _table(losses: dict[str, dict[int, np.ndarray]]) -> Table:
    return Table(
        title="The largest changes",
        head=["replaced", "rise of the loss, nats"],
        rows=[[words, f"{rise:+z.4f}"] for words, rise in _ranked(losses)],
        caption="The loss is the mean over the next tokens of the text.",
    )
