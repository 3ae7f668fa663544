"""Markov chains in context: each sequence has its own transition matrix, which a model has to infer from the sequence.

Edelman et al. 2024, "The Evolution of Statistical Induction Heads: In-Context Learning Markov Chains". Training goes
through plateaus: the uniform guess, the frequencies of single states, then those of pairs, which is the optimum.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from train.evaluation.probes.interface import (
    Curve,
    Findings,
    Reader,
    Sequences,
    Task,
    at_least,
    by_column,
    mean_over,
    measured,
    shifted,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarkovChains(Task):
    """Sequences of a Markov chain whose transition matrix is drawn anew for each.

    Each row of the matrix has a symmetric Dirichlet distribution. The first state is uniform, so that it says nothing
    about the matrix and the posterior mean of the rows is exactly the Bayes prediction (the paper draws it from the
    stationary distribution).

    Attributes:
      num_states: k.
      length: T, the number of predicted states.
      concentration: alpha of the Dirichlet distribution; 1 makes all matrices equally likely.
    """

    num_states: int = 3
    length: int = 100
    concentration: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from at_least(self, num_states=2, length=2)
        if not self.concentration > 0:
            yield "concentration", f"must be above 0, got {self.concentration}"

    @property
    def num_symbols(self) -> int:
        """The states."""
        return self.num_states

    @classmethod
    def sized(cls, reader: Reader) -> "MarkovChains":
        """See `Task`."""
        return cls(num_states=min(3, reader.num_ids), length=min(128, reader.length))

    def sequences(self, draws: Sequence[np.random.Generator]) -> Sequences:
        """See `Prepared`; every target counts."""
        k = self.num_states
        gammas = np.stack([draw.standard_gamma(self.concentration, (k, k)) for draw in draws])
        # A gamma that underflows to 0 in a whole row would leave no distribution.
        gammas = np.maximum(gammas, np.finfo(np.float64).tiny)
        bounds = np.cumsum(gammas / gammas.sum(-1, keepdims=True), axis=-1)
        uniforms = np.stack([draw.random(self.length + 1) for draw in draws])
        states = np.empty(uniforms.shape, np.int64)
        states[:, 0] = uniforms[:, 0] * k
        rows = np.arange(len(draws))
        for t in range(self.length):
            passed = bounds[rows, states[:, t]] <= uniforms[:, t + 1, None]
            states[:, t + 1] = np.minimum(passed.sum(-1), k - 1)
        return shifted(states, np.ones((len(draws), self.length)))

    def strategies(self, made: Sequences) -> dict[str, np.ndarray]:
        """-log p of each target under three predictors, in nats, each (N, T).

        bigram: the posterior mean of the transition matrix after the pairs so far, the exact Bayes prediction
        (c_ij + alpha) / (c_i + k alpha); unigram: the same with counts of single states; uniform: ln k.
        """
        k, alpha = self.num_states, self.concentration
        inputs, targets = np.eye(k)[made.tokens], np.eye(k)[made.targets]
        pairs = inputs[..., :, None] * targets[..., None, :]
        before = np.cumsum(pairs, axis=1) - pairs  # the pairs that end at the present state, (N, T, k, k)
        row = np.einsum("ntij,nti->ntj", before, inputs)
        singles = np.cumsum(inputs, axis=1)
        found = {}
        for name, counts in (("bigram", row), ("unigram", singles)):
            of_target = (counts * targets).sum(-1)
            found[name] = -np.log((of_target + alpha) / (counts.sum(-1) + k * alpha))
        return found | {"uniform": np.full(made.tokens.shape, np.log(k))}

    def findings(self, made: Sequences, nll_NT: np.ndarray, hits_NT: np.ndarray) -> Findings:
        """See `Prepared`."""
        strategies = self.strategies(made)
        numbers = measured(made, nll_NT, hits_NT)
        above, error = mean_over(nll_NT - strategies["bigram"], made.weights)
        numbers |= {"loss_above_bayes": above, "loss_above_bayes_standard_error": error}
        lines = {"model": nll_NT} | strategies
        curve = Curve(
            title="Loss by position",
            x_label="states seen",
            y_label="nats",
            x=tuple(range(1, self.length + 1)),
            lines={name: by_column(values, made.weights) for name, values in lines.items()},
        )
        baselines = {name: mean_over(values, made.weights)[0] for name, values in strategies.items()}
        return Findings(numbers=numbers, baselines=baselines, pictures=(curve,))
