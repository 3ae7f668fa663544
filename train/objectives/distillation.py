"""Distillation: the student learns the teacher's distribution of the next token, beside or in place of the text.

With q and p the softmax of the teacher's and the student's logits divided by a temperature t, the loss of a token is
(1 - mixture) times its cross-entropy plus mixture * t^2 times a divergence (Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network", section 2):

| divergence | of a token                                  |                                                       |
|------------|---------------------------------------------|-------------------------------------------------------|
| forward    | KL(q | p)                                   | Hinton et al. 2015                                    |
| reverse    | KL(p | q)                                   | Gu et al. 2023, "MiniLLM", equation 1                 |
| jsd        | (KL(q | m) + KL(p | m)) / 2, m = (p + q) / 2 | Agarwal et al. 2023, "On-Policy Distillation", eq. 1 |

Of the teacher's logits the `top_k` largest are kept, with their exact probabilities; all other tokens together are one
outcome more, in both distributions. A divergence of these k + 1 outcomes is at most that of all, and equal for k = V.

The teacher is held on the devices of the student, in the placements of the student's table, and runs before each step
(`Preparation`); the step itself knows numbers alone, so that it is compiled as any other. Logits of both are computed
for a part of the positions at a time: neither pass makes an array of all tokens times the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.errors import UserError
from model.layout import Layout
from model.transformer import unembedding
from model.vocabulary import cross_entropy
from model.vocabulary.cross_entropy import total_nll
from model.vocabulary.unembedding import Unembedding
from train.files.paths import IS_PATH, literal_path
from train.objectives.interface import Batch, Preparation, Sums
from train.objectives.next_token import (
    OfTargets,
    log_z_of_targets,
    stream_of_batch,
    stream_of_targets,
    with_model_losses,
)
from train.objectives.tap_sums import LOG_Z, tap_sums

if TYPE_CHECKING:
    from train.hooks.interface import Session
    from train.state import TrainState

IDS, LOG_PROBABILITIES = "teacher_ids", "teacher_log_probabilities"  # fields of a completed batch, (B, T, k)
SMALLEST = 1e-30  # a probability below it counts as none
Divergence = Literal["forward", "reverse", "jsd"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(OfTargets):
    """The divergence from a teacher's distribution, mixed with the cross-entropy of the text.

    Attributes:
      teacher: its run folder; its latest parameters count.
      divergence: "forward", "reverse" or "jsd".
      temperature: divides the logits of both.
      mixture: the share of the divergence in the loss.
      top_k: how many of the teacher's logits are kept.
    """

    teacher: str = dataclasses.field(metadata=IS_PATH)
    divergence: Divergence = "forward"
    temperature: float = 1.0
    mixture: float = 1.0
    top_k: int = 64

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.temperature <= 0:
            yield "temperature", f"must be above 0, got {self.temperature}"
        if not 0 < self.mixture <= 1:
            yield "mixture", f"must be above 0 and at most 1, got {self.mixture}; without a teacher take NextToken()"
        if self.top_k < 1:
            yield "top_k", f"must be at least 1, got {self.top_k}"

    def loss(
        self,
        model: ModelConfig,
        params: Any,
        batch: Batch,
        *,
        dropout_key: jax.Array | None,
        layout: Layout,
        taps: tuple[str, ...] = (),
    ) -> tuple[jax.Array, Sums]:
        """See `Objective`."""
        weights_BT = batch["weights"]
        output = stream_of_targets(model, params, batch, dropout_key=dropout_key, layout=layout, taps=taps)
        head = unembedding(model, params)
        reported, nll = total_nll(output.stream_BTD, head, batch["targets"], weights_BT, layout)
        divergence_BT = self.divergences(output.stream_BTD, head, batch, layout)
        divergence = jnp.sum(divergence_BT * weights_BT)
        of_teacher = self.mixture * self.temperature**2
        total = of_teacher * divergence + ((1 - self.mixture) * nll if self.mixture < 1 else 0.0)
        losses = {"next_token": reported, "divergence": jax.lax.stop_gradient(divergence)}
        sums, maxima = tap_sums(output.taps, weights_BT)
        if LOG_Z in taps:
            sums[LOG_Z] = log_z_of_targets(output.stream_BTD, head, batch, layout)
        sums_of = Sums(jax.lax.stop_gradient(total), output.losses | losses, output.measurements, sums, maxima)
        return with_model_losses(total, output.losses), sums_of

    def divergences(self, stream_BTD: jax.Array, head: Unembedding, batch: Batch, layout: Layout) -> jax.Array:
        """The divergence of every token in nats, float32 (B, T)."""

        def of_part(logits_BTV: jax.Array, ids_BTK: jax.Array, log_q_BTK: jax.Array) -> jax.Array:
            log_p_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32) / self.temperature)
            log_p_BTK = jnp.take_along_axis(log_p_BTV, ids_BTK, -1)
            return divergence_of(self.divergence, with_rest(log_q_BTK), with_rest(log_p_BTK))

        found: jax.Array = by_parts(of_part, stream_BTD, head, layout, batch[IDS], batch[LOG_PROBABILITIES])
        return found

    def preparation(self, session: Session) -> Preparation:
        """The teacher, on the devices of the run. Raises UserError for one of other tokens, or of shorter texts."""
        return Teacher(self, session)


def with_rest(log_p: jax.Array) -> jax.Array:
    """Adds an outcome for all tokens that are not listed, (..., k) -> (..., k + 1)."""
    rest = 1.0 - jnp.sum(jnp.exp(log_p), -1, keepdims=True)
    return jnp.concatenate([log_p, jnp.log(jnp.maximum(rest, SMALLEST))], -1)


def divergence_of(kind: Divergence, log_q: jax.Array, log_p: jax.Array) -> jax.Array:
    """Returns the divergence of the student's distribution p from the teacher's q, over the last axis."""

    def kl(log_a: jax.Array, log_b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.exp(log_a) * (log_a - log_b), -1)

    if kind == "forward":
        return kl(log_q, log_p)
    if kind == "reverse":
        return kl(log_p, log_q)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    return (kl(log_q, log_m) + kl(log_p, log_m)) / 2


def by_parts(
    function: Callable[..., Any], stream_BTD: jax.Array, head: Unembedding, layout: Layout, *arrays: jax.Array
) -> Any:
    """Maps logits and arrays (B, T, ...) to arrays (B, T, ...), for some positions of all rows at a time.

    A device makes at most `MAX_LOGITS` logits at once, if some number of parts allows it; the backward pass makes them
    again.
    """
    rows, length = stream_BTD.shape[:2]
    logits = rows * length * head.w_DV.shape[1] // (layout.ways("batch") * layout.ways("vocab"))
    wanted = min(length, -(-logits // cross_entropy.MAX_LOGITS))
    parts = next(n for n in range(max(1, wanted), length + 1) if length % n == 0)

    def part(inputs: tuple[jax.Array, ...]) -> Any:
        return function(head.logits(inputs[0], layout), *inputs[1:])

    if parts == 1:
        return part((stream_BTD, *arrays))
    split = [x.reshape(rows, parts, -1, *x.shape[2:]).swapaxes(0, 1) for x in (stream_BTD, *arrays)]
    found = jax.lax.map(jax.checkpoint(part), tuple(split))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, length, *x.shape[3:]), found)


def teacher_targets(
    model: ModelConfig, params: Any, batch: Batch, layout: Layout, temperature: float, top_k: int
) -> dict[str, jax.Array]:
    """Returns the tokens with the largest logits and the logarithms of their probabilities, each (B, T, k)."""
    output = stream_of_batch(model, params, batch, layout)

    def of_part(logits_BTV: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_q_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32) / temperature)
        return jax.lax.top_k(log_q_BTV, top_k)

    log_q_BTK, ids_BTK = by_parts(of_part, output.stream_BTD, unembedding(model, params), layout)
    return {IDS: ids_BTK, LOG_PROBABILITIES: log_q_BTK}


class Teacher(Preparation):
    """Adds the teacher's largest probabilities to each batch."""

    in_processes = True

    def __init__(self, option: Distillation, session: Session) -> None:
        """Loads the teacher as the run's table says. Raises UserError for one that does not fit the run."""
        from train.data.shards.dataset import dataset_of_run
        from train.run.loading import load_params

        experiment, source = session.experiment, literal_path(option.teacher)
        loaded = load_params(source, mesh=experiment.mesh, sharding=experiment.sharding)
        model, where = loaded.experiment.model, f"objective.teacher={source}"
        own, theirs = session.dataset.tokenizer, dataset_of_run(source).tokenizer
        if theirs.fingerprint() != own.fingerprint() or model.vocab_size != experiment.model.vocab_size:
            raise UserError(
                f"{where} has another tokenizer ({theirs.vocab_size:,} tokens) than this run ({own.vocab_size:,}), so "
                "that its probabilities are of other tokens; take a teacher of this tokenizer"
            )
        if model.context_length < (length := experiment.data.sequence_length):
            raise UserError(f"{where} reads {model.context_length} tokens, fewer than data.sequence_length={length}")
        if option.top_k > model.vocab_size:
            raise UserError(f"objective.top_k={option.top_k} is more than the {model.vocab_size} tokens there are")
        rows, layout = session.layout.placement(("batch", "sequence")), session.layout
        arguments = layout, option.temperature, option.top_k
        self._targets = jax.jit(
            lambda params, batch: teacher_targets(model, params, batch, *arguments), out_shardings=rows
        )
        self._params = loaded.params

    def __call__(self, state: TrainState, batch: Batch, n: int) -> Batch:
        """See `Preparation`."""
        return {**batch, **self._targets(self._params, batch)}
