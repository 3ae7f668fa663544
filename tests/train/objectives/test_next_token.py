"""The loss of every token of a batch, and the sum with the model's own losses."""

import jax
import jax.numpy as jnp
import numpy as np

from model.layout import ONE_DEVICE
from model.transformer import forward, init
from model.vocabulary.cross_entropy import cross_entropy
from train.objectives.next_token import token_nll, with_model_losses


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
