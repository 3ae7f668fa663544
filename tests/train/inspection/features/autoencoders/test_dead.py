"""Resampling as the paper describes it; the auxiliary loss is compared in test_top_k.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from tests.train.inspection.features.autoencoders.reference import OUT, M, parameters, tokens
from train.inspection.features.autoencoders.dead import AuxK, Resampling
from train.inspection.features.autoencoders.interface import Inputs


def test_dead_features_take_the_place_of_badly_written_tokens():
    params = {name: jnp.asarray(x, jnp.float32) for name, x in parameters().items()}
    x, target, weights = tokens()
    inputs = Inputs(*(jnp.asarray(a, jnp.float32) for a in (x, target, weights)))
    dead = np.arange(M) % 3 == 0
    output = target.copy()
    output[2] += 10.0  # the only token that is written badly, but for the padding
    output[-1] += 1000.0
    made = jax.jit(Resampling(encoder_share=0.2).resample)(
        params, inputs, jnp.asarray(output, jnp.float32), jnp.asarray(dead), jax.random.key(0)
    )
    centred = target[2] - parameters()["decoder_bias"]
    live = np.linalg.norm(parameters()["encoder"], axis=0)[~dead].mean()
    for j in range(M):
        if dead[j]:
            np.testing.assert_allclose(made["decoder"][j], centred / np.linalg.norm(centred), rtol=1e-5)
            np.testing.assert_allclose(made["encoder"][:, j], 0.2 * live * x[2] / np.linalg.norm(x[2]), rtol=1e-5)
            assert made["encoder_bias"][j] == 0
        else:
            for name in ("decoder", "encoder_bias"):
                np.testing.assert_array_equal(made[name][j], params[name][j])
            np.testing.assert_array_equal(made["encoder"][:, j], params["encoder"][:, j])
    assert made["decoder_bias"].shape == (OUT,)
    np.testing.assert_array_equal(made["decoder_bias"], params["decoder_bias"])


@pytest.mark.parametrize("option", [AuxK(k=0), AuxK(weight=0.0), Resampling(every=0), Resampling(encoder_share=0.0)])
def test_values_without_a_meaning_are_refused(option):
    with pytest.raises(UserError, match="must be"):
        check(option)
