"""The instrument `markov`: the heads of a model that learned Markov chains in context.

Edelman et al. 2024, "The Evolution of Statistical Induction Heads: In-Context Learning Markov Chains", section 3: to
predict as Bayes does, a head of the first layer copies to each token the state before it, and a head of the second
attends evenly to the tokens whose state before is the present one, so that it counts what followed.

With the states x of a row, the patterns say which keys s count for query t:

    previous    s = t - 1
    same        s < t and x_s = x_t
    following   s <= t and x_{s-1} = x_t: what came after an earlier visit of the present state
    first       s = 0
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.taps.request import Tap, Taps, TapSite
from model.transformer import logits, stream
from train.evaluation.probes.interface import Findings, Sequences, generators, mean_over
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probing.page import draw
from train.inspection.attention import scores
from train.inspection.page.page import packed
from train.inspection.result import Charts, Part, Result, Table, Widget
from train.inspection.subject import Subject, by_layer, chosen_layers, layers_with
from train.inspection.tasks.task import task_of
from train.run.loading import LoadedRun

WEIGHTS, OUTPUTS = "attention_weights", "mixer_heads"
_ROLES = {"previous": "previous_token", "same": "duplicate_token", "following": "induction"}
PATTERNS = (*_ROLES, "first")
SHOWN = 32  # tokens of the map


class Head(NamedTuple):
    """A head: the mean weight on each of `PATTERNS`, and the rise of the loss without it, with its standard error."""

    layer: int
    head: int
    weights: dict[str, float]
    rise: float
    error: float


def inspect(run: LoadedRun, *, sequences: int = 64, seed: int = 0) -> Result:
    """Where each head attends on new chains, and the rise of the loss with the mean in place of its output.

    Args:
      run: the model.
      sequences: the chains.
      seed: the seed of the chains.

    Raises UserError for a run that was not trained on Markov chains, and for one without attention.
    """
    task, subject = task_of(run, MarkovChains, "configs/markov_chains.py"), Subject.of(run)
    if sequences < 2:
        raise UserError(f"--sequences={sequences}: a standard error needs 2 or more")
    layers = chosen_layers(subject.config, WEIGHTS, None)
    made = task.sequences(generators(seed, "probe", range(sequences)))
    weights = by_layer(subject, made.tokens, WEIGHTS, layers)
    clean, findings, rises = _losses(subject, task, made, layers)
    heads = [
        Head(n, head, {name: float(x[head]) for name, x in found.items()}, *rises[n][head])
        for n in layers
        for found in [mean_weights(weights[n], made.tokens)]
        for head in range(weights[n].shape[1])
    ]
    even = {name: float(x[0]) for name, x in mean_weights(even_weights(*made.tokens.shape), made.tokens).items()}
    numbers = {
        "loss": clean,
        "baselines": findings.baselines,
        "even": even,
        "heads": [each._asdict() for each in heads],
    }
    return Result(
        title="Markov chains, head by head",
        about=f"{run.folder}, step {run.step:,} · {sequences} chains of {task.num_states} states, loss {clean:.4f} "
        f"nats, Bayes {findings.baselines['bigram']:.4f}",
        numbers=numbers | {name: findings.numbers[name] for name in findings.numbers if "bayes" in name},
        arrays={f"layer_{n}": x for n, x in weights.items()},
        parts=_parts(heads, even, weights, made, findings),
        lines=_lines(heads, even),
    )


def patterns(tokens_BT: np.ndarray) -> dict[str, np.ndarray]:
    """The keys that count for each query, float32 (B, T, S): those of three roles of heads, and the first."""
    of_roles = scores.patterns(jnp.asarray(tokens_BT))
    found = {name: np.asarray(of_roles[role]) for name, role in _ROLES.items()}
    first = np.zeros_like(found["previous"])
    first[:, :, 0] = 1
    return found | {"first": first}


def mean_weights(weights_BNTS: np.ndarray, tokens_BT: np.ndarray) -> dict[str, np.ndarray]:
    """The mean over queries of the weight on the keys of each pattern, (N,)."""
    count = tokens_BT.size
    return {
        name: np.einsum("bnts,bts->n", weights_BNTS, pattern_BTS) / count
        for name, pattern_BTS in patterns(tokens_BT).items()
    }


def even_weights(rows: int, length: int) -> np.ndarray:
    """The weights of a head that attends to itself and all earlier tokens alike, (B, 1, T, S)."""
    even_TS = np.tri(length, dtype=np.float32) / np.arange(1, length + 1, dtype=np.float32)[:, None]
    return np.broadcast_to(even_TS, (rows, 1, length, length))


def _losses(
    subject: Subject, task: MarkovChains, made: Sequences, layers: list[int]
) -> tuple[float, Findings, dict[int, list[tuple[float, float]]]]:
    """The loss, the findings of the probe, and by layer the rise of the loss without each head, with its error."""

    def nll(params: Any, tokens_BT: jax.Array, targets_BT: jax.Array, taps: Taps) -> tuple[jax.Array, jax.Array]:
        output = stream(subject.config, params, tokens_BT, layout=subject.layout, taps=taps)
        z_BTV = logits(subject.config, params, output.stream_BTD, layout=subject.layout).astype(jnp.float32)
        of_target = jnp.take_along_axis(jax.nn.log_softmax(z_BTV), targets_BT[..., None], axis=-1)[..., 0]
        return -of_target, jnp.argmax(z_BTV, axis=-1) == targets_BT

    clean_BT, hits_BT = subject.compiled(lambda p, tokens, targets: nll(p, tokens, targets, Taps()))(
        made.tokens, made.targets
    )
    rises: dict[int, list[tuple[float, float]]] = {}
    for layer in chosen_layers(subject.config, OUTPUTS, layers):

        def without(params: Any, tokens: Any, targets: Any, head: Any, layer: int = layer) -> jax.Array:
            return nll(params, tokens, targets, Taps(edit={Tap(OUTPUTS, layers=(layer,)): _mean_of(head)}))[0]

        call = subject.compiled(without)
        changed = [
            call(made.tokens, made.targets, np.int32(head))
            for head in range(layers_with(subject.config, OUTPUTS)[layer][2])
        ]
        rises[layer] = [mean_over(each_BT - clean_BT, made.weights) for each_BT in changed]
    findings = task.findings(made, clean_BT.astype(np.float64), hits_BT)
    return mean_over(clean_BT, made.weights)[0], findings, rises


def _mean_of(head: Any) -> Any:
    """An edit that replaces the output of a head by its mean over rows and tokens."""

    def edit(x_BTNH: jax.Array, site: TapSite) -> jax.Array:
        mine_N1 = (jnp.arange(x_BTNH.shape[2]) == head)[:, None]
        return jnp.where(mine_N1, jnp.mean(x_BTNH, axis=(0, 1), keepdims=True), x_BTNH)

    return edit


def _parts(
    heads: list[Head], even: dict[str, float], weights: dict[int, np.ndarray], made: Sequences, findings: Findings
) -> list[Part]:
    rows = [[f"layer {h.layer}, head {h.head}", *_shares(h.weights), f"{h.rise:+z.4f} ± {h.error:.4f}"] for h in heads]
    table = Table(
        title="Heads",
        head=("", "the token before", "the same state", "after the same state", "the first", "rise of the loss, nats"),
        rows=[*rows, ["attention spread evenly", *_shares(even), ""]],
        caption="Mean weights of all queries on keys that are the token before, that have the state of the query, that "
        "come after an earlier token of this state, and that are the first. The rise of the loss is that with the mean "
        "output of the head over all tokens in its place, ± a standard error over chains.",
    )
    states = made.tokens[0, :SHOWN]
    maps = np.concatenate([x[0, :, :SHOWN, :SHOWN] for x in weights.values()])
    widget = Widget(
        name="heatmap",
        title="Attention over one chain",
        data={
            "rows": [str(x) for x in states],
            "columns": [str(x) for x in states],
            "values": packed(maps.astype(np.float32)),
            "views": [f"layer {n}, head {h}" for n, x in weights.items() for h in range(x.shape[1])],
            "rowName": "query",
            "columnName": "key",
            "low": 0,
            "high": 1,
        },
        caption=f"The first {len(states)} states of the first chain.",
    )
    curves = [draw(picture, f"markov-{number}") for number, picture in enumerate(findings.pictures)]
    return [table, Charts(charts=curves, title="Loss"), widget]


def _shares(weights: dict[str, float]) -> list[str]:
    return [f"{weights[name]:.3f}" for name in PATTERNS]


def _lines(heads: list[Head], even: dict[str, float]) -> list[str]:
    lines = ["layer  head  " + "  ".join(f"{name:>9}" for name in PATTERNS) + "  rise of the loss"]
    for each in heads:
        shares = "  ".join(f"{x:>9}" for x in _shares(each.weights))
        lines.append(f"{each.layer:>5}  {each.head:>4}  {shares}  {each.rise:+z.4f} ± {each.error:.4f}")
    return [*lines, "attention spread evenly: " + ", ".join(f"{name} {even[name]:.3f}" for name in PATTERNS)]
