"""The temperature of a policy; losses and means are tested in test_policy.py and test_ppo.py."""

import jax
import jax.numpy as jnp
import numpy as np

from model.layout import ONE_DEVICE
from model.transformer import forward
from tests.model.conftest import drawn_params
from train.objectives.drawn_answers import run_policy


def test_log_probabilities_are_at_the_temperature(tiny_experiment):
    model = tiny_experiment(model__num_layers=1, model__width=16, model__ffn__width=16, model__vocab_size=31).model
    params, draw = drawn_params(model), np.random.default_rng(0)
    tokens, targets = draw.integers(0, 31, (2, 2, 6)).astype(np.int32)
    batch = {"tokens": tokens, "targets": targets, "weights": np.ones((2, 6), np.float32)}
    logits = jax.jit(lambda p: forward(model, p, tokens).logits_BTV)(params)
    found = jax.jit(lambda p: run_policy(model, p, batch, 0.5, ONE_DEVICE, ()).logprob_BT)(params)
    wanted = jnp.take_along_axis(jax.nn.log_softmax(2 * logits), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
