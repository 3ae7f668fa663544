"""The preparation of a batch of drawn answers: the rollout, its rewards, and the log-probabilities of its tokens.

A rollout serves `minibatches` times `epochs` updates. `log p_old` is of the trainer's own forward pass, at the
parameters before the first of them; with `rollouts.behind` it was drawn by those before the rollout before it. The
sampler's own numbers enter no ratio but the weights of `importance_cap`.

`logprob_difference`, the largest difference between the two at each rollout, is 1e-6 to 1e-5 on a CPU and not 0, for
another order of sums, as measured (jaxlib 0.10). The engine's programs read at most 32 tokens each, and up to 32 rows a
product of matrices sums in one order (model/inference/engine/programs.py). A whole batch has more: from its first
product, that of the queries, on it rounds otherwise (equal bits with 2 x 16 tokens; with 8 x 16 in a seventh of them).
Sums along an axis, such as log Z, differ too, as the engine compiles them without the library (equal bits in nine of
ten). What remains is put down to attention, which adds up other blocks over pages than over a text: this is inferred
from the code, not measured. By the same inference equal bits would need the pass of training in pieces of 32 tokens
through the cache, many times slower; to read the texts again in the engine would only repeat its own numbers.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.layout import Layout
from model.transformer import scores as scores_of_stream
from model.transformer import stream, unembedding
from model.vocabulary.token_statistics import token_statistics
from train.alignment.advantages import advantages, differs, overlong_penalty
from train.alignment.answers import judge
from train.alignment.drawing import Answer, Sampler
from train.alignment.reward_run import RewardRun
from train.alignment.rewards import Question, RewardProcess
from train.data.conversations.found_template import template_of_dataset, trained_template
from train.data.prompts import Prompt, Prompts, padded
from train.files.paths import literal_path
from train.objectives.drawn_answers import at_temperature
from train.objectives.interface import Batch, Preparation
from train.objectives.policy import GRPO
from train.objectives.ppo import PPO
from train.objectives.rollout_options import RewardOf
from train.run.pretrained import initial_params

if TYPE_CHECKING:
    from train.hooks.interface import Session
    from train.state import TrainState


class Scored(NamedTuple):
    """Of each target: its log-probability, the entropy at its place, and the value there; (R, T), values 0 without."""

    logprobs: np.ndarray
    entropies: np.ndarray
    values: np.ndarray


# The numbers of a rollout before it is scored.
OF_DRAWS = (
    "accuracy_lenient",
    "accuracy_strict",
    "answer_tokens",
    "equal_groups",
    "reward",
    "reward_failures",
    "truncated_share",
)
NEXT = "next."  # before the names of the arrays of a rollout that the next updates use
OF_HOST = ("numbers", "rewards", "sampled", "scalars")  # arrays that the step does not read


Own = TypeVar("Own", bound=GRPO | PPO)


class RolloutPreparation(Preparation, Generic[Own], abc.ABC):
    """See the module. A class for each objective says what answers earn, `_credit`, and may leave some out, `_counts`.

    Attributes:
      names: the numbers that it reports, in the order of the array that is saved with a checkpoint.
    """

    names: tuple[str, ...] = (*OF_DRAWS, "entropy", "logprob_difference")

    def __init__(self, objective: Own, session: Session) -> None:
        """Args: the objective, the session. Raises UserError for data without prompts, or a missing reference."""
        experiment, name = session.experiment, type(objective).__name__
        if not isinstance(experiment.data, Prompts):
            raise UserError(
                f"objective: {name} answers prompts; set data=Prompts(...), got {type(experiment.data).__name__}"
            )
        if objective.kl and experiment.training.init_from is None:
            raise UserError("objective.kl: the reference is the run of training.init_from; name one, or set kl to 0")
        self._objective, self._session, self._data = objective, session, experiment.data
        self._batches = experiment.data.training_batches(session.dataset, ())
        self._reference: Any = None
        stop_tokens: tuple[int, ...] = ()
        if experiment.training.init_from is not None:
            found = trained_template(literal_path(experiment.training.init_from))
            stop_tokens = () if found is None else found.stop_tokens
        self._sampler = Sampler(
            experiment.model,
            session.dataset.tokenizer,
            stop_tokens,
            objective.rollouts,
            experiment.training.seed,
            experiment.data.sequence_length + 1,
            session.layout,
            session.alive,
            None if (own := template_of_dataset(session.dataset.folder)) is None else own.template,
        )
        self._rewards: RewardProcess | RewardRun
        if isinstance(objective.reward, RewardOf):
            self._rewards = RewardRun(objective.reward, session)
        else:
            self._rewards = RewardProcess(objective.reward, session.say)
        self._rows = session.layout.placement(("batch", "sequence"))
        self._score = jax.jit(
            lambda params, batch: scores(
                experiment.model, objective.rollouts.temperature, session.layout, params, batch
            )
        )
        self._kept: dict[str, np.ndarray] = {}
        self._next: dict[str, np.ndarray] = {}
        if objective.rollouts.importance_cap is not None:
            self.names = (*self.names, "importance")
        self._scalars: dict[str, float] = {}

    def __call__(self, state: TrainState, batch: Batch, n: int) -> Batch:
        """See `Preparation`."""
        option, size = self._objective.rollouts, self._data.batch_size
        rollout, update = divmod(n, option.minibatches * option.epochs)
        if update == 0:
            drawn = self._next or self._drawn(state.all_params, rollout, n)
            self._kept = self._completed(state.all_params, drawn)
            self._next = {}
            if option.behind and n + option.minibatches * option.epochs < self._session.experiment.training.num_steps:
                self._next = self._drawn(state.all_params, rollout + 1, n)
        first = (update % option.minibatches) * size
        part = {name: x[first : first + size] for name, x in self._kept.items() if name not in OF_HOST}
        part["first"] = np.full((size, 1), float(update == 0), np.float32)
        self._scalars = {name: float(x) for name, x in zip(self.names, self._kept["scalars"], strict=True)}
        wanted = {name: x for name, x in part.items() if name not in ("segment_ids", "positions") or name in batch}
        return jax.device_put(wanted, self._rows)

    def scalars(self) -> Mapping[str, float]:
        """See `Preparation`: those of the rollout that the batch is a part of."""
        return self._scalars

    def saved(self) -> Mapping[str, np.ndarray]:
        """See `Preparation`: the rollouts that later updates use."""
        option = self._objective.rollouts
        kept = self._kept if option.minibatches * option.epochs > 1 else {}
        return {**kept, **{f"{NEXT}{name}": x for name, x in self._next.items()}}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `Preparation`."""
        self._kept = {name: x for name, x in arrays.items() if not name.startswith(NEXT)}
        self._next = {name.removeprefix(NEXT): x for name, x in arrays.items() if name.startswith(NEXT)}

    def close(self) -> None:
        """Ends the processes of the reward and of the tool."""
        self._rewards.close()
        self._sampler.close()

    def _drawn(self, params: Any, rollout: int, n: int) -> dict[str, np.ndarray]:
        """A rollout: the answers to the prompts of all minibatches and their rewards, as arrays with rows R."""
        option, group = self._objective.rollouts, self._data.group
        numbers = range(rollout * option.minibatches, (rollout + 1) * option.minibatches)
        prompts = [prompt for number in numbers for prompt in self._batches.prompts(number) for _ in range(group)]
        with self._session.spent_on("rollout"):
            answers = self._sampler(params, prompts, rollout)
        texts = [self._sampler.text(answer) for answer in answers]
        failures = self._rewards.failures
        with self._session.spent_on("reward"):
            rewards = np.array(self._rewards(_questions(prompts, answers, texts)))
        arrays = self._arrays(prompts, answers, rewards)
        verdicts = [judge(text, str(p.fields.get("answer"))) for p, text in zip(prompts, texts, strict=True)]
        values = {
            "accuracy_lenient": np.mean([verdict.lenient for verdict in verdicts]),
            "accuracy_strict": np.mean([verdict.strict for verdict in verdicts]),
            "answer_tokens": np.mean([sum(answer.drawn) for answer in answers]),
            "equal_groups": 1 - differs(rewards, group).mean(),
            "reward": rewards.mean(),
            "reward_failures": self._rewards.failures - failures,
            "truncated_share": np.mean([answer.truncated for answer in answers]),
        }
        arrays["numbers"] = np.array([values[name] for name in OF_DRAWS], np.float32)
        if n % self._session.experiment.evaluation.every == 0:
            self._show(n + 1, prompts, texts, rewards)
        return arrays

    def _completed(self, params: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A rollout with the log-probabilities of the policy that is trained on it, and what its answers earned."""
        own, drawn, cap = self._scored(params, arrays), arrays["drawn"] > 0, self._objective.rollouts.importance_cap
        arrays["old"] = own.logprobs
        values = dict(zip(OF_DRAWS, arrays["numbers"], strict=True))
        values["entropy"] = own.entropies[drawn].mean()
        values["logprob_difference"] = np.abs(own.logprobs - arrays["sampled"])[drawn].max()
        if cap is not None:
            arrays["importance"] = np.where(drawn, np.minimum(np.exp(own.logprobs - arrays["sampled"]), cap), 0)
            values["importance"] = arrays["importance"][drawn].mean()
        if self._objective.kl:
            with self._session.spent_on("reference"):
                arrays["reference"] = self._scored(self._reference_params(), arrays).logprobs
        values |= self._credit(arrays, arrays["rewards"][:, 0].astype(np.float64), own)
        arrays["scalars"] = np.array([values[name] for name in self.names], np.float32)
        return arrays

    @abc.abstractmethod
    def _credit(self, arrays: dict[str, np.ndarray], rewards: np.ndarray, own: Scored) -> dict[str, Any]:
        """Adds what the answers of a rollout earned to its arrays; returns further numbers to report."""

    def _counts(self, answers: Sequence[Answer], rewards: np.ndarray) -> np.ndarray:
        """Which answers count in the loss, bool (R,)."""
        masked = self._objective.rollouts.truncated == "mask"
        return ~np.array([masked and answer.truncated for answer in answers])

    def _arrays(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer], rewards: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The rows of all rollouts: inputs, targets, weights, rewards, and the sampler's log-probabilities."""
        length = self._data.sequence_length
        whole = [[*prompt.ids, *answer.ids] for prompt, answer in zip(prompts, answers, strict=True)]
        arrays = padded([text[:-1] for text in whole], length)
        shape = arrays["tokens"].shape
        targets, drawn, sampled = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for i, (prompt, answer, text) in enumerate(zip(prompts, answers, whole, strict=True)):
            targets[i, : len(text) - 1] = text[1:]
            drawn[i, len(prompt.ids) - 1 : len(text) - 1] = answer.drawn
            sampled[i, len(prompt.ids) - 1 : len(text) - 1] = answer.logprobs
        return {
            **{name: np.ascontiguousarray(x) for name, x in arrays.items()},
            "targets": targets,
            "drawn": drawn,
            "weights": drawn * self._counts(answers, rewards)[:, None].astype(np.float32),
            "sampled": sampled,
            "rewards": rewards[:, None].astype(np.float32),
        }

    def _scored(self, params: Any, arrays: Mapping[str, np.ndarray]) -> Scored:
        """The numbers of all targets, by the forward pass of the trainer over whole texts."""
        size, found = self._data.batch_size, []
        for first in range(0, len(arrays["tokens"]), size):
            part = {
                name: arrays[name][first : first + size] for name in ("tokens", "targets", "segment_ids", "positions")
            }
            found.append(jax.device_get(self._score(params, jax.device_put(part, self._rows))))
        return Scored(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _reference_params(self) -> Any:
        if self._reference is None:
            self._reference = initial_params(self._session.experiment)
        return self._reference

    def _show(self, step: int, prompts: Sequence[Prompt], texts: Sequence[str], rewards: np.ndarray) -> None:
        """Writes the first sample of a few prompts to samples.txt."""
        for row in range(0, len(prompts), self._data.group)[:4]:
            text = f"{prompts[row].text}\n{texts[row]}\nreward {rewards[row]:g}"
            self._session.metrics.sample(step, text)


class GRPOPreparation(RolloutPreparation[GRPO]):
    """Rollouts with an advantage within its group for each answer."""

    def _credit(self, arrays: dict[str, np.ndarray], rewards: np.ndarray, own: Scored) -> dict[str, Any]:
        option, lengths = self._objective, arrays["drawn"].sum(axis=1)
        rewards = rewards + overlong_penalty(lengths, option.rollouts.max_tokens, option.overlong)
        arrays["advantages"] = advantages(rewards, self._data.group, option.baseline)[:, None]
        return {}

    def _counts(self, answers: Sequence[Answer], rewards: np.ndarray) -> np.ndarray:
        counts = super()._counts(answers, rewards)
        return counts & differs(rewards, self._data.group) if self._objective.filter_equal else counts


def _questions(prompts: Sequence[Prompt], answers: Sequence[Answer], texts: Sequence[str]) -> list[Question]:
    return [
        Question(prompt.text, text, prompt.fields, prompt.where, (*prompt.ids, *answer.ids), len(prompt.ids))
        for prompt, answer, text in zip(prompts, answers, texts, strict=True)
    ]


def scores(
    model: Any, temperature: float, layout: Layout, params: Any, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The fields of `Scored` for a batch, float32 (B, T); log-probabilities and entropies are at a temperature."""
    stream_BTD = stream(
        model,
        params,
        batch["tokens"],
        positions_BT=batch["positions"],
        segment_ids_BT=batch["segment_ids"] if model.reads_lengths else None,
        consecutive_positions=True,
        layout=layout,
    ).stream_BTD
    head = at_temperature(unembedding(model, params), temperature)
    found = token_statistics(stream_BTD, head, batch["targets"], layout)
    value_BT = jnp.zeros_like(found.nll_BT)
    if model.score_head is not None:
        value_BT = scores_of_stream(model, params, stream_BTD, layout=layout)[..., 0]
    return -found.nll_BT, jnp.asarray(found.entropy_BT), value_BT
