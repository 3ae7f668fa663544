"""The loss of every token of a batch, and the sum with the model's own losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.residual import Multipliers
from model.transformer import forward, init
from model.vocabulary.cross_entropy import cross_entropy
from model.vocabulary.embedding import Untied
from train.objectives.next_token import NextToken, token_nll, with_model_losses


def test_the_loss_of_a_token_is_that_of_its_logits(tiny_experiment, random_batch):
    """Documents packed together, each with its own positions; the mask is not checked."""
    experiment = tiny_experiment()
    batch = random_batch(experiment)
    params = init(experiment.model, jax.random.key(0))
    named = {f"{name}_BT": batch[name] for name in ("positions", "segment_ids")}
    logits = forward(experiment.model, params, batch["tokens"], **named).logits_BTV
    expected, _ = cross_entropy(logits, batch["targets"])
    np.testing.assert_allclose(token_nll(experiment.model, params, batch, ONE_DEVICE), expected, rtol=1e-5)


def test_what_is_minimised_is_the_sum_of_all_losses():
    assert float(with_model_losses(jnp.array(3.0), {"one": jnp.array(0.5), "other": jnp.array(0.25)})) == 3.75


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_by_its_definition(smoothing, tiny_experiment, random_batch):
    """(1 - e) times -log p of the target, plus e times the mean of -log p over all tokens; the reported loss is plain."""
    experiment = tiny_experiment()
    batch, changes = (
        random_batch(experiment),
        {"multipliers": Multipliers(logits=3.0), "unembedding": Untied(bias=True)},
    )
    model = dataclasses.replace(experiment.model, **changes)
    params = init(model, jax.random.key(0))
    params["embedding"]["output_bias"] = jnp.sin(jnp.arange(model.vocab_size, dtype=jnp.float32))
    named = {f"{name}_BT": batch[name] for name in ("positions", "segment_ids")}
    log_p = np.asarray(jax.nn.log_softmax(forward(model, params, batch["tokens"], **named).logits_BTV), np.float64)
    target = np.take_along_axis(log_p, np.asarray(batch["targets"])[..., None], -1)[..., 0]
    smoothed = -(1 - smoothing) * target - smoothing * log_p.mean(-1)
    objective = NextToken(label_smoothing=smoothing)
    minimised, sums = objective.loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)
    np.testing.assert_allclose(minimised, (smoothed * np.asarray(batch["weights"])).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.loss, -(target * np.asarray(batch["weights"])).sum(), rtol=1e-5)
    assert next(dataclasses.replace(objective, label_smoothing=1.0).problems())[0] == "label_smoothing"
