"""Activation patching between two texts, and its estimate by gradients (attribution patching).

The measure m is the logit of an answer less that of a wrong answer after the last token. In a run of the corrupt text
an activation is replaced by that of the clean text; the effect is (m - m_corrupt) / (m_clean - m_corrupt): 0 for a
patch that changes nothing, 1 for one that restores the clean result (Meng et al. 2022, "Locating and Editing Factual
Associations in GPT"; Heimersheim, Nanda 2024, "How to use and interpret activation patching"). Attribution patching
(Nanda 2023) takes the gradient of m at the corrupt activation times the difference of the activations: all patches from
two forward passes and a backward one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.taps.request import Tap, Taps, TapSite
from model.transformer import logits
from train.inspection.causes.replace import (
    Replacement,
    Replacer,
    chosen_taps,
    groups_of,
    num_units,
    refuse_no_change,
)
from train.inspection.choice import positions_in, predictions, single_token
from train.inspection.page.page import packed
from train.inspection.result import Result, Table, Widget
from train.inspection.source import notes_of, subject_of, words_on
from train.inspection.subject import Subject, layers_with
from train.inspection.text import Tokens, read, token_texts
from train.run.loading import LoadedRun

DEFAULT_TAPS = ("block_output", "mixer_output", "cross_output", "ffn_output", "mixer_heads", "cross_heads")
ALIKE = 1e-5  # numbers that differ by less, relatively, are the same but for rounding
MAX_POSITIONS = 64
SMALL = 0.1  # a change of the logit difference that is too small to divide by


class Question(NamedTuple):
    """The two texts, int32 (T,), and the tokens whose logits are compared after the last one."""

    clean: np.ndarray
    corrupt: np.ndarray
    answer: int
    wrong: int


class Effects(NamedTuple):
    """Effects of patches of one tap by layer: (positions,), or (heads,) at all positions; NaN without a change."""

    patched: dict[int, np.ndarray]
    estimated: dict[int, np.ndarray]


def logit_difference(subject: Subject, answer: int, wrong: int) -> Any:
    """The measure: the logit of the answer less that of the wrong one, after the last token of each row."""

    def measure(params: Any, output: Any) -> jax.Array:
        last_B1V = logits(subject.config, params, output.stream_BTD[:, -1:], layout=subject.layout)
        return (last_B1V[:, 0, answer] - last_B1V[:, 0, wrong]).astype(jnp.float32)

    return measure


def patch(
    subject: Subject, question: Question, name: str, layers: Sequence[int] | None, positions: Sequence[int]
) -> tuple[Effects, float, float]:
    """The effects of patches of a tap, and the measures of the clean and of the corrupt text.

    A tap that has several heads in some layer is patched head by head at all of the positions, another one position by
    position.

    Raises:
      UserError: for a tap or layer that is not there, and where no patch changes an activation.
    """
    measure = logit_difference(subject, question.answer, question.wrong)
    heads = by_head(subject, name, layers)
    patched: dict[int, np.ndarray] = {}
    estimated: dict[int, np.ndarray] = {}
    for group in groups_of(subject.config, name, layers):
        replacer = Replacer(subject, name, group, measure)
        clean, corrupt = (float(replacer.unchanged(ids)) for ids in (question.clean, question.corrupt))
        if clean == corrupt:
            raise UserError(
                "both texts have the same logit difference, so that no patch has an effect; take other answers"
            )
        units = num_units(subject.config, name, group[0])
        places = tuple(positions)
        if heads:
            wanted = [Replacement(n, places, (unit,)) for n in group for unit in range(units)]
        else:
            wanted = [Replacement(n, (place,)) for n in group for place in places]
        new, old = replacer.activations(question.clean), replacer.activations(question.corrupt)
        changed = np.array([replacer.changes(old, new, each) for each in wanted])
        refuse_no_change(name, changed.tolist(), "the activations of both texts are equal there")
        values = replacer(question.corrupt, new, wanted)
        effects = np.where(changed, (values - corrupt) / (clean - corrupt) + 0.0, np.nan).reshape(len(group), -1)
        gradient = _gradient(subject, question.corrupt, name, group, measure)
        products = (gradient * (new - old)).astype(np.float64)[:, list(places)] / (clean - corrupt)
        axes = (1, 3) if heads else tuple(range(2, products.ndim))
        estimates = np.where(changed.reshape(len(group), -1), products.sum(axis=axes) + 0.0, np.nan)  # no -0.0
        patched |= dict(zip(group, effects, strict=True))
        estimated |= dict(zip(group, estimates, strict=True))
    return Effects(patched, estimated), clean, corrupt


def _gradient(subject: Subject, ids: np.ndarray, name: str, layers: tuple[int, ...], measure: Any) -> np.ndarray:
    """The gradient of the measure of a text by the tap in each layer, (L, T, ...)."""
    numbers = jnp.asarray(layers)

    def measured(delta: jax.Array, params: Any, tokens_BT: jax.Array) -> jax.Array:
        def add(x: jax.Array, site: TapSite) -> jax.Array:
            return x + delta[jnp.argmax(numbers == site.layer)].astype(x.dtype)

        taps = Taps(edit={Tap(name, layers=layers): add})
        total: jax.Array = measure(params, subject.stream(params, tokens_BT, taps))
        return total[0]

    shape = layers_with(subject.config, name)[layers[0]]
    zeros = np.zeros((len(layers), 1, len(ids), *shape[2:]), np.float32)
    call = subject.compiled(lambda params, tokens, zeros: jax.grad(measured)(zeros, params, tokens))
    return np.asarray(call(ids[None].astype(np.int32), zeros))[:, 0]


def question_of(
    run: LoadedRun, subject: Subject, text: str, corrupt: str, answer: str | None, wrong: str | None
) -> tuple[Question, Tokens, list[str]]:
    """The two texts as tokens, with the tokens to compare, by default the likeliest ones of either text.

    Beside it the tokens of the clean text, and sentences on texts that were cut.

    Raises:
      UserError: for texts of different lengths, the same text twice, and the same answer for both.
    """
    clean, other = read(run, text, least=2), read(run, corrupt, least=2, flag="corrupt")
    if len(clean) != len(other):
        raise UserError(
            f"--text has {len(clean)} tokens and --corrupt {len(other)}; patching needs texts whose tokens stand at "
            "the same positions: reword one of them"
        )
    if (clean.ids == other.ids).all():
        raise UserError("--text and --corrupt are the same text, so that no patch has an effect; change a word of one")
    best = [int(predictions(subject, each.ids, len(each) - 1).argmax()) for each in (clean, other)]
    chosen = best[0] if answer is None else single_token(run, answer, "answer")
    against = best[1] if wrong is None else single_token(run, wrong, "wrong")
    if chosen == against:
        name = token_texts(run.tokenizer, np.array([chosen]))[0]
        raise UserError(f"the answer and the wrong answer are both {name!r}; name them: --answer=... --wrong=...")
    notes = [*clean.notes, *(f"--corrupt: {note}" for note in other.notes)]
    return Question(clean.ids, other.ids, chosen, against), clean, notes


def inspect(
    run: LoadedRun,
    *,
    text: str,
    corrupt: str,
    source: str | None = None,
    answer: str | None = None,
    wrong: str | None = None,
    taps: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> Result:
    """Patches of the activations of a clean text into a run of a corrupt one.

    Args:
      run: the model.
      text: the clean text.
      corrupt: the corrupt text, of as many tokens.
      source: the text that an encoder reads beside both, which are then targets; None for a model without one.
      answer: the token that is right after the clean text; None for the model's first choice there.
      wrong: the token that is right after the corrupt one; None for the model's first choice there.
      taps: the taps to patch; None for the stream, the outputs of mixers and feed-forwards, and heads.
      layers: the layers to patch them in; None for all that have them.
      positions: the tokens to patch, -1 for the last; None for all from the first that differs on. A map of positions
        shows a sample of more than 64.
    """
    subject, read_too = subject_of(run, source)
    question, tokens, notes = question_of(run, subject, text, corrupt, answer, wrong)
    whole, same = _places(question, tokens, positions)
    places, sampled = _sample(whole)
    names = chosen_taps(subject.config, taps, DEFAULT_TAPS)
    heads = {name: by_head(subject, name, layers) for name in names}
    effects: dict[str, Effects] = {}
    clean = dirty = float("nan")
    for name in names:
        effects[name], clean, dirty = patch(subject, question, name, layers, whole if heads[name] else places)
    notes += [*notes_of(read_too), *same, *([] if all(heads.values()) else sampled), *notes_on_change(clean, dirty)]
    answers = token_texts(run.tokenizer, np.array([question.answer, question.wrong]))
    other = token_texts(run.tokenizer, question.corrupt)
    agreement = {name: _agreement(each) for name, each in effects.items()}
    return Result(
        title="Activation patching",
        about=f"{run.folder}, step {run.step:,} \u00b7 logit of {answers[0]!r} less that of {answers[1]!r}: "
        f"{clean:.3f} after the clean text, {dirty:.3f} after the corrupt one{words_on(read_too)}",
        numbers={
            "clean": {"tokens": list(tokens.texts), "difference": clean},
            "corrupt": {"tokens": list(other), "difference": dirty},
            "answer": answers[0],
            "wrong": answers[1],
            **({} if all(heads.values()) else {"positions": places}),
            **({"head_positions": whole} if any(heads.values()) else {}),
            "effects": {name: each.patched for name, each in effects.items()},
            "estimates": {name: each.estimated for name, each in effects.items()},
            "agreement": {name: {"correlation": r, "largest_difference": d} for name, (r, d) in agreement.items()},
        },
        arrays={
            f"{name}_{kind}": np.array(list(getattr(each, kind).values()))
            for name, each in effects.items()
            if len({len(x) for x in each.patched.values()}) == 1
            for kind in ("patched", "estimated")
        },
        parts=[
            *(_map(name, each, tokens, other, None if heads[name] else places) for name, each in effects.items()),
            _table(agreement),
        ],
        notes=notes,
        lines=[
            f"{name}: largest effect {_strongest(each):.3f}, correlation with "
            f"the estimate {_correlation(agreement[name][0])}"
            for name, each in effects.items()
        ],
    )


def _strongest(effects: Effects) -> float:
    """The effect that is farthest from 0, with its sign."""
    found = np.concatenate([*effects.patched.values()])
    return float(found[np.nanargmax(np.abs(found))])


def notes_on_change(clean: float, corrupt: float) -> list[str]:
    """A warning where the measure changes so little between the texts that shares of the change say little."""
    if abs(clean - corrupt) >= SMALL:
        return []
    return [
        f"The logit difference changes by only {abs(clean - corrupt):.3f} between the texts: effects, which are shares "
        "of that, are large and say little. Take texts and answers that the model tells apart."
    ]


def _places(question: Question, tokens: Tokens, positions: Sequence[int] | None) -> tuple[list[int], list[str]]:
    """The positions to patch, and a sentence on those before them that are the same in both texts."""
    if positions is not None:
        return positions_in(tokens, positions), []
    first = int(np.argmax(question.clean != question.corrupt))
    same = [f"The texts are the same before token {first}, where no patch has an effect."] if first else []
    return list(range(first, len(tokens))), same


def _sample(places: list[int]) -> tuple[list[int], list[str]]:
    """As many of the positions as a map shows, and a sentence on the others."""
    if len(places) <= MAX_POSITIONS:
        return places, []
    chosen = [places[int(at)] for at in np.linspace(0, len(places) - 1, MAX_POSITIONS).round()]
    return chosen, [
        f"A sample: {MAX_POSITIONS} of {len(places)} tokens, at equal distances; --positions chooses others. Heads are "
        "patched at all of them."
    ]


def _agreement(effects: Effects) -> tuple[float | None, float]:
    """The correlation of effects and estimates over all patches, and their largest difference.

    There is no correlation of fewer than three patches, nor of effects or estimates that are all alike.
    """
    x, y = (np.concatenate(list(values.values())) for values in effects)
    x, y = x[np.isfinite(x)], y[np.isfinite(y)]
    alike = any(np.ptp(each) <= ALIKE * np.abs(each).max() for each in (x, y))
    correlation = None if len(x) < 3 or alike else float(np.corrcoef(x, y)[0, 1])
    return correlation, float(np.abs(x - y).max())


def _correlation(found: float | None) -> str:
    return "\u2013" if found is None else f"{found:.3f}"


def by_head(subject: Subject, name: str, layers: Sequence[int] | None) -> bool:
    """Whether `patch` replaces a tap head by head: some layer has several."""
    return any(num_units(subject.config, name, group[0]) > 1 for group in groups_of(subject.config, name, layers))


def _map(name: str, effects: Effects, tokens: Tokens, corrupt: Sequence[str], places: list[int] | None) -> Widget:
    """A heat map, by layer and position; by head where there are no `places`."""
    heads = places is None
    widest = max(map(len, effects.patched.values()))
    views = np.array([[[*x, *[np.nan] * (widest - len(x))] for x in values.values()] for values in effects])
    most = max(1.0, float(np.nanmax(np.abs(views[0]))))
    columns: list[str] = [str(head) for head in range(widest)]
    if places is not None:
        columns = [
            tokens.texts[at] if tokens.texts[at] == corrupt[at] else f"{tokens.texts[at]}|{corrupt[at]}"
            for at in places
        ]
    return Widget(
        name="heatmap",
        title=f"{name}: " + ("by head, at all positions" if heads else "by layer and position"),
        data={
            "rows": list(effects.patched),
            "columns": columns,
            "turned": not heads,
            "values": packed(views),
            "views": ["activation patching", "attribution patching (gradient)"],
            "rowName": "layer",
            "columnName": "head" if heads else "token",
            "low": -most,
            "high": most,
        },
        caption=f"1 restores the clean result, 0 changes nothing{_dashes(effects, widest)}."
        + (_CAUSAL if name in _AFTER_ATTENTION and places is not None and len(places) > 1 else ""),
    )


def _dashes(effects: Effects, widest: int) -> str:
    """What a dash stands for; cells of a wide map have no numbers, and show theirs when pointed at."""
    rows = effects.patched.values()
    why = ["both texts have the same activation there"] if any(np.isnan(x).any() for x in rows) else []
    why += ["the layer has no such head"] if any(len(x) < widest for x in rows) else []
    return f"; a dash, in a cell or when it is pointed at, says that {' or that '.join(why)}" if why else ""


_AFTER_ATTENTION = ("block_output", "mixer_output", "cross_output", "ffn_output")
_CAUSAL = (
    " The answer is read after the last token, and a layer's attention alone moves an activation from one token to "
    "another: in the last layer a patch at an earlier token comes too late, and its effect is 0."
)


def _table(agreement: dict[str, tuple[float | None, float]]) -> Table:
    return Table(
        title="Patching and its estimate by gradients",
        head=["tap", "correlation", "largest difference"],
        rows=[[name, _correlation(r), f"{difference:.3f}"] for name, (r, difference) in agreement.items()],
        caption="Over all patches of a tap; a dash where they are fewer than three or have all the same effect."
        if any(r is None for r, _ in agreement.values())
        else "",
    )
