"""Path patching: the effect of a head through one path, to the logits or to a later layer's attention.

Wang et al. 2023, "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small", section
3.1: in a run of the corrupt text the output of one head is that of the clean text, and all other heads keep their
corrupt outputs, so that its change reaches the end on the stream and through feed-forwards alone. With a receiver the
changed queries, keys or values of that layer are taken, and put into a second run of the corrupt text without other
changes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.options.words import nearest
from model.taps.request import Tap, Taps, TapSite
from model.transformer import stream
from train.inspection.causes.patch import Question, logit_difference, notes_on_change, question_of
from train.inspection.causes.replace import ROWS, groups_of
from train.inspection.page.page import packed
from train.inspection.result import Result, Widget
from train.inspection.subject import Subject, chosen_layers, layers_with
from train.inspection.text import token_texts
from train.run.loading import LoadedRun

RECEIVERS = ("logits", "query", "key", "value")
TAP = "mixer_heads"


def path_effects(
    subject: Subject, question: Question, receiver: str = "logits", layer: int | None = None
) -> tuple[dict[int, np.ndarray], float, float]:
    """The effects of all heads before the receiver, by layer, and the measures of the clean and of the corrupt text.

    An effect of 0 is none, one of 1 restores the clean result.

    Args:
      subject: the model.
      question: the texts and the tokens whose logits are compared.
      receiver: logits, or query, key, value of `layer`.
      layer: the layer of the receiver; None for the logits.

    Raises:
      UserError: for a receiver that is not there, heads of different shapes, and texts with equal logit differences.
    """
    config = subject.config
    if receiver not in RECEIVERS:
        raise UserError(f"--receiver={receiver[:40]!r} can receive no path; {nearest(receiver, RECEIVERS)}")
    if (receiver == "logits") != (layer is None):
        raise UserError("--layer is that of the receiver: give it with --receiver=query, key or value, and only then")
    if layer is not None:
        (layer,) = chosen_layers(config, receiver, [layer], flag="layer")
    groups = groups_of(config, TAP, None)
    if len(groups) > 1:
        raise UserError("path patching needs heads of one shape in all layers, and those of this model differ")
    layers = groups[0]
    senders = [n for n in layers if layer is None or n < layer]
    if not senders:
        raise UserError(f"no head comes before layer {layer}; give a later --layer")
    measure = logit_difference(subject, question.answer, question.wrong)
    tap, numbers = Tap(TAP, layers=layers), jnp.asarray(layers)
    taken = None if layer is None else Tap(receiver, layers=(layer,))

    def run(params: Any, tokens_BT: Any, edit: Any = None, keep: tuple[Tap, ...] = ()) -> Any:
        return stream(config, params, tokens_BT, layout=subject.layout, taps=Taps(keep=keep, edit=edit or {}))

    def ends(params: Any, tokens_BT: Any) -> Any:
        output = run(params, tokens_BT, keep=(tap,))
        return measure(params, output), output.taps[TAP]

    def effect(params: Any, tokens_BT: Any, both_L2T: Any, layer_B: Any, head_B: Any) -> jax.Array:
        def freeze(x: jax.Array, site: TapSite) -> jax.Array:
            clean, corrupt = both_L2T[jnp.argmax(numbers == site.layer)]
            is_sender = (layer_B == site.layer)[:, None] & (head_B[:, None] == jnp.arange(x.shape[2]))
            return jnp.where(is_sender[:, None, :, None], clean, corrupt).astype(x.dtype)

        first = run(params, tokens_BT, {tap: freeze}, () if taken is None else (taken,))
        if taken is None:
            return measure(params, first)
        received = first.taps[taken.name][0]
        return measure(params, run(params, tokens_BT, {taken: lambda x, site: received.astype(x.dtype)}))

    (clean, corrupt), both_L2T = subject.compiled(ends)(np.stack([question.clean, question.corrupt]))
    if clean == corrupt:
        raise UserError("both texts have the same logit difference, so that no path has an effect; take other answers")
    heads = layers_with(config, TAP)[layers[0]][2]
    wanted = np.array([(n, head) for n in senders for head in range(heads)], np.int32)
    call, found = subject.compiled(effect), []
    tokens_BT = np.broadcast_to(question.corrupt, (ROWS, len(question.corrupt)))
    for first in range(0, len(wanted), ROWS):
        rows = np.resize(wanted[first : first + ROWS], (ROWS, 2))
        found.append(call(tokens_BT, both_L2T, rows[:, 0], rows[:, 1])[: len(wanted[first : first + ROWS])])
    effects = (np.concatenate(found) - corrupt) / (clean - corrupt) + 0.0  # no -0.0
    by_layer = dict(zip(senders, effects.reshape(len(senders), heads), strict=True))
    return by_layer, float(clean), float(corrupt)


def inspect(
    run: LoadedRun,
    *,
    text: str,
    corrupt: str,
    answer: str | None = None,
    wrong: str | None = None,
    receiver: str = "logits",
    layer: int | None = None,
) -> Result:
    """The effects of heads through paths to a receiver.

    Args:
      run: the model.
      text: the clean text.
      corrupt: the corrupt text, of as many tokens.
      answer: the token that is right after the clean text; None for the model's first choice there.
      wrong: the token that is right after the corrupt one; None for the model's first choice there.
      receiver: logits, or query, key, value of `layer`.
      layer: the layer of the receiver.
    """
    subject = Subject.of(run)
    question, tokens, notes = question_of(run, subject, text, corrupt, answer, wrong)
    effects, clean, dirty = path_effects(subject, question, receiver, layer)
    names = token_texts(run.tokenizer, np.array([question.answer, question.wrong]))
    values = np.stack(list(effects.values()))
    most = max(float(np.abs(values).max()), 1e-9)
    to = receiver if layer is None else f"{receiver} of layer {layer % subject.config.num_layers}"
    return Result(
        title=f"Paths of heads to the {to}",
        about=f"{run.folder}, step {run.step:,} \u00b7 logit of {names[0]!r} less that of {names[1]!r}: "
        f"{clean:.3f} after the clean text, {dirty:.3f} after the corrupt one",
        numbers={
            "receiver": receiver,
            "layer": layer,
            "clean": clean,
            "corrupt": dirty,
            "effects": effects,
            "tokens": list(tokens.texts),
        },
        arrays={"effects": values, "layers": np.array(list(effects))},
        parts=[
            Widget(
                name="heatmap",
                title="Effects by head",
                data={
                    "rows": list(effects),
                    "columns": list(range(values.shape[1])),
                    "values": packed(values),
                    "rowName": "layer",
                    "columnName": "head",
                    "low": -most,
                    "high": most,
                },
                caption="The head's clean output reaches the receiver on the stream and through feed-forwards alone; "
                "all other heads keep their corrupt outputs. 1 restores the clean result.",
            )
        ],
        notes=[*notes, *notes_on_change(clean, dirty)],
        lines=[f"layer {n}: " + " ".join(f"{x:+z.3f}" for x in row) for n, row in effects.items()],
    )
