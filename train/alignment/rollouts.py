"""The preparation of a batch of GRPO: answers drawn by the engine with the trainer's own parameters, and their rewards.

The draws of a rollout are a function of (training.seed, the number of the rollout, its row), so they are the same in a
run that resumes. Samples of one prompt share its pages in the engine's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.layout import Layout
from model.transformer import stream, unembedding
from model.vocabulary.token_statistics import token_statistics
from train.alignment.advantages import advantages, differs, overlong_penalty
from train.alignment.answers import judge
from train.alignment.rewards import Question, RewardProcess
from train.data.conversations.found_template import trained_template
from train.data.prompts import Prompt, Prompts, padded
from train.files.paths import literal_path
from train.objectives.interface import Batch, Preparation
from train.objectives.policy import GRPO, at_temperature
from train.run.pretrained import initial_params

if TYPE_CHECKING:
    from train.hooks.interface import Session
    from train.state import TrainState


class Answer(NamedTuple):
    """A drawn answer: its ids, their log-probabilities in the sampler, and whether a limit ended it."""

    ids: list[int]
    logprobs: list[float]
    truncated: bool


def draw(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """The answers to requests, in their order."""
    numbers = [engine.submit(request) for request in requests]
    found = {number: Answer([], [], False) for number in numbers}
    while engine.num_unfinished:
        for update in engine.step():
            answer = found[update.request_id]
            for score in update.tokens:
                answer.ids.append(score.token)
                answer.logprobs.append(float(score.logprob or 0.0))
            if update.ended_by in ("max_tokens", "context"):
                found[update.request_id] = answer._replace(truncated=True)
    return [found[number] for number in numbers]


def seed_of(seed: int, rollout: int) -> int:
    """The seed of the draws of a rollout, below 2^32."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{rollout}".encode(), digest_size=4).digest(), "big")


class RolloutPreparation(Preparation):
    """See the module."""

    def __init__(self, objective: GRPO, session: Session) -> None:
        """Args: the objective, the session. Raises UserError for data without prompts, or a missing reference."""
        experiment = session.experiment
        if not isinstance(experiment.data, Prompts):
            raise UserError(
                f"objective: GRPO answers prompts; set data=Prompts(...), got {type(experiment.data).__name__}"
            )
        if objective.kl and experiment.training.init_from is None:
            raise UserError("objective.kl: the reference is the run of training.init_from; name one, or set kl to 0")
        self._objective, self._session, self._data = objective, session, experiment.data
        self._batches = experiment.data.training_batches(session.dataset, ())
        self._tokenizer = session.dataset.tokenizer
        self._engine: Engine | None = None
        self._reference: Any = None
        self._stop_tokens: tuple[int, ...] = ()
        if experiment.training.init_from is not None:
            found = trained_template(literal_path(experiment.training.init_from))
            self._stop_tokens = () if found is None else found.stop_tokens
        self._rewards = RewardProcess(objective.reward, session.say)
        self._rows = session.layout.placement(("batch", "sequence"))
        self._score = jax.jit(
            lambda params, batch: scores(
                experiment.model, objective.rollouts.temperature, session.layout, params, batch
            )
        )
        self._kept: dict[str, np.ndarray] = {}
        self._scalars: dict[str, float] = {}

    def __call__(self, state: TrainState, batch: Batch, n: int) -> Batch:
        """See `Preparation`."""
        option, size = self._objective.rollouts, self._data.batch_size
        rollout, update = divmod(n, option.minibatches * option.epochs)
        if update == 0:
            self._kept = self._roll_out(state, rollout, n)
        first = (update % option.minibatches) * size
        part = {name: x[first : first + size] for name, x in self._kept.items() if name != "scalars"}
        part["first"] = np.full((size, 1), float(update == 0), np.float32)
        names = self._kept_names
        self._scalars = {name: float(x) for name, x in zip(names, self._kept["scalars"], strict=True)}
        wanted = {name: x for name, x in part.items() if name not in ("segment_ids", "positions") or name in batch}
        return jax.device_put(wanted, self._rows)

    @property
    def _kept_names(self) -> list[str]:
        names = ["accuracy_lenient", "accuracy_strict", "answer_tokens", "entropy", "equal_groups"]
        return [*names, "logprob_difference", "reward", "reward_failures", "truncated_share"]

    def scalars(self) -> Mapping[str, float]:
        """See `Preparation`: those of the rollout that the batch is a part of."""
        return self._scalars

    def saved(self) -> Mapping[str, np.ndarray]:
        """See `Preparation`: the rollouts, where they serve several updates."""
        option = self._objective.rollouts
        return self._kept if option.minibatches * option.epochs > 1 else {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `Preparation`."""
        self._kept = dict(arrays)

    def close(self) -> None:
        """Ends the process of the reward."""
        self._rewards.close()

    def _roll_out(self, state: TrainState, rollout: int, n: int) -> dict[str, np.ndarray]:
        """The rollouts of all minibatches, their rewards and log-probabilities, as arrays with rows R."""
        option, group = self._objective.rollouts, self._data.group
        numbers = range(rollout * option.minibatches, (rollout + 1) * option.minibatches)
        prompts = [prompt for number in numbers for prompt in self._batches.prompts(number) for _ in range(group)]
        params = state.all_params
        with self._session.spent_on("rollout"):
            answers = draw(self._engine_of(params), self._requests(prompts, rollout))
        texts = [self._text(answer) for answer in answers]
        failures = self._rewards.failures
        with self._session.spent_on("reward"):
            questions = [Question(p.text, text, p.fields, p.where) for p, text in zip(prompts, texts, strict=True)]
            rewards = np.array(self._rewards(questions))
        arrays = self._arrays(prompts, answers, rewards)
        own, entropy = self._scored(params, arrays)
        drawn = arrays["drawn"] > 0
        difference = np.abs(own - arrays["old"])[drawn].max()
        if self._objective.kl:
            with self._session.spent_on("reference"):
                arrays["reference"] = self._scored(self._reference_params(), arrays)[0]
        verdicts = [judge(text, str(p.fields.get("answer"))) for p, text in zip(prompts, texts, strict=True)]
        values = {
            "accuracy_lenient": np.mean([verdict.lenient for verdict in verdicts]),
            "accuracy_strict": np.mean([verdict.strict for verdict in verdicts]),
            "answer_tokens": np.mean([len(answer.ids) for answer in answers]),
            "entropy": entropy[drawn].mean(),
            "equal_groups": 1 - differs(rewards, group).mean(),
            "logprob_difference": difference,
            "reward": rewards.mean(),
            "reward_failures": self._rewards.failures - failures,
            "truncated_share": np.mean([answer.truncated for answer in answers]),
        }
        if n % self._session.experiment.evaluation.every == 0:
            self._show(n + 1, prompts, texts, rewards)
        arrays["scalars"] = np.array([values[name] for name in self._kept_names], np.float32)
        return arrays

    def _engine_of(self, params: Any) -> Engine:
        if self._engine is None:
            option, model = self._objective.rollouts, self._session.experiment.model
            options = EngineOptions(rows=option.rows, tokens_per_step=4 * option.rows + 1, max_logprobs=1)
            self._engine = Engine(model, params, options, layout=self._session.layout)
            self._engine.compile(lambda done, count: self._session.alive())
        else:
            self._engine.replace_params(params)
        return self._engine

    def _requests(self, prompts: Sequence[Prompt], rollout: int) -> list[Request]:
        option = self._objective.rollouts
        seed = seed_of(self._session.experiment.training.seed, rollout)
        return [
            Request(
                prompt=tuple(prompt.ids),
                sampling=Sampling(
                    max_tokens=min(option.max_tokens, self._data.sequence_length + 1 - len(prompt.ids)),
                    temperature=option.temperature,
                    top_k=option.top_k,
                    top_p=option.top_p,
                    min_p=option.min_p,
                    seed=seed,
                ),
                end=self._tokenizer.end_of_document,
                stop_tokens=self._stop_tokens,
                sample_index=row,
                num_logprobs=0,
                scaled_logprobs=True,
            )
            for row, prompt in enumerate(prompts)
        ]

    def _text(self, answer: Answer) -> str:
        """The text of an answer without the token that ends it."""
        ends = {self._tokenizer.end_of_document, *self._stop_tokens}
        return self._tokenizer.decode([token for token in answer.ids if token not in ends]).strip()

    def _arrays(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer], rewards: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The rows of all rollouts: inputs, targets, weights, the sampler's log-probabilities, advantages (R, 1)."""
        objective, length = self._objective, self._data.sequence_length
        whole = [[*prompt.ids, *answer.ids] for prompt, answer in zip(prompts, answers, strict=True)]
        arrays = padded([text[:-1] for text in whole], length)
        shape = arrays["tokens"].shape
        targets, drawn, old = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for i, (prompt, answer, text) in enumerate(zip(prompts, answers, whole, strict=True)):
            targets[i, : len(text) - 1] = text[1:]
            drawn[i, len(prompt.ids) - 1 : len(text) - 1] = 1
            old[i, len(prompt.ids) - 1 : len(text) - 1] = answer.logprobs
        counts = np.ones(len(rewards), bool)
        if objective.filter_equal:
            counts &= differs(rewards, self._data.group)
        if objective.rollouts.truncated == "mask":
            counts &= ~np.array([answer.truncated for answer in answers])
        lengths = np.array([len(answer.ids) for answer in answers])
        rewards = rewards + overlong_penalty(lengths, objective.rollouts.max_tokens, objective.overlong)
        gain = advantages(rewards, self._data.group, objective.baseline)
        return {
            **{name: np.ascontiguousarray(x) for name, x in arrays.items()},
            "targets": targets,
            "drawn": drawn,
            "weights": drawn * counts[:, None].astype(np.float32),
            "old": old,
            "advantages": gain[:, None],
        }

    def _scored(self, params: Any, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The log-probabilities and entropies of all targets, by the forward pass of the trainer over whole texts."""
        size, found = self._data.batch_size, []
        for first in range(0, len(arrays["tokens"]), size):
            part = {
                name: arrays[name][first : first + size] for name in ("tokens", "targets", "segment_ids", "positions")
            }
            found.append(jax.device_get(self._score(params, jax.device_put(part, self._rows))))
        logprobs, entropies = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return logprobs, entropies

    def _reference_params(self) -> Any:
        if self._reference is None:
            self._reference = initial_params(self._session.experiment)
        return self._reference

    def _show(self, step: int, prompts: Sequence[Prompt], texts: Sequence[str], rewards: np.ndarray) -> None:
        """Writes the first sample of a few prompts to samples.txt."""
        for row in range(0, len(prompts), self._data.group)[:4]:
            text = f"{prompts[row].text}\n{texts[row]}\nreward {rewards[row]:g}"
            self._session.metrics.sample(step, text)


def scores(
    model: Any, temperature: float, layout: Layout, params: Any, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each target and the entropy at each place, at a temperature, float32 (B, T)."""
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
    return -found.nll_BT, jnp.asarray(found.entropy_BT)
