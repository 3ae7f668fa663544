"""Heads that are made by hand on chains, and those of a trained model."""

import numpy as np
import pytest

from model.errors import UserError
from train.data.generated import Generated
from train.evaluation.probes.markov import MarkovChains
from train.inspection.tasks import markov

TOKENS = np.array([[0, 1, 0, 2, 0, 1, 1], [2, 2, 1, 0, 1, 2, 0]], np.int32)


def test_patterns_against_loops():
    found = markov.patterns(TOKENS)
    for row, x in enumerate(TOKENS):
        for t in range(7):
            for s in range(7):
                assert found["previous"][row, t, s] == (s == t - 1)
                assert found["same"][row, t, s] == (s < t and x[s] == x[t])
                assert found["following"][row, t, s] == (1 <= s <= t and x[s - 1] == x[t])
                assert found["first"][row, t, s] == (s == 0)


def test_weights_of_heads_made_by_hand():
    following = markov.patterns(TOKENS)["following"].astype(np.float32)
    some = following.sum(-1, keepdims=True)
    counts = np.where(some > 0, following / np.maximum(some, 1), np.eye(7))  # itself where nothing followed
    before = np.broadcast_to(np.eye(7, k=-1), counts.shape)
    weights = np.stack([counts, before, markov.even_weights(2, 7)[:, 0]], axis=1)
    found = markov.mean_weights(weights, TOKENS)
    assert found["following"][0] == pytest.approx((some > 0).mean())
    assert found["previous"][1] == pytest.approx(6 / 7)
    assert found["first"][2] == pytest.approx(np.mean(1 / np.arange(1, 8)))
    naive = np.mean([(x[:t] == x[t]).sum() / (t + 1) for x in TOKENS for t in range(7)])
    assert found["same"][2] == pytest.approx(naive)


@pytest.fixture(scope="module")
def chains_run(tiny_experiment, tmp_path_factory):
    from train.loop import train

    folder = tmp_path_factory.mktemp("markov") / "run"
    task = MarkovChains(num_states=3, length=16)
    experiment = tiny_experiment(
        model__vocab_size=3,
        data=Generated(task=task, batch_size=8, validation_batches=1),
        training__num_steps=2,
        schedule__warmup_steps=0,
        samples__prompts=(),
        samples__length=1,
    )
    train(experiment, folder, say=lambda line: None)
    return folder


def test_losses_without_heads_and_the_page(chains_run):
    import jax
    import jax.numpy as jnp

    from model.transformer import forward
    from train.evaluation.probes.interface import generators
    from train.run.loading import load_run

    run = load_run(chains_run)
    silent = run.params["blocks"]["mixer"]["output"].at[1, 2].set(0)  # head 2 of layer 1 writes nothing
    run.params["blocks"]["mixer"]["output"] = silent
    result = markov.inspect(run, sequences=8, seed=3)
    made = run.experiment.data.task.sequences(generators(3, "probe", range(8)))
    z = jax.nn.log_softmax(forward(run.experiment.model, run.params, jnp.asarray(made.tokens)).logits_BTV)
    loss = -np.take_along_axis(np.asarray(z), made.targets[..., None], axis=-1).mean()
    assert result.numbers["loss"] == pytest.approx(loss, rel=1e-5)
    heads = result.numbers["heads"]
    assert [(each["layer"], each["head"]) for each in heads] == [(n, head) for n in range(2) for head in range(4)]
    assert [(each["layer"], each["head"]) for each in heads if each["rise"] == each["error"] == 0] == [(1, 2)]
    assert result.arrays["layer_1"].shape == (8, 4, 16, 16)
    assert "after the same state" in result.parts[0].head


def test_other_runs_and_too_few_chains_are_refused(chains_run, tiny_run):
    from train.run.loading import load_run

    with pytest.raises(UserError, match="was trained on text; expected a run of configs/markov_chains.py"):
        markov.inspect(load_run(tiny_run))
    with pytest.raises(UserError, match="--sequences=1: a standard error needs 2 or more"):
        markov.inspect(load_run(chains_run), sequences=1)
