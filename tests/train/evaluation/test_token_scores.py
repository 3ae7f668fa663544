import dataclasses

import jax
import numpy as np
import pytest

from model.transformer import forward, init
from model.vocabulary import cross_entropy
from train.evaluation.token_scores import compile_token_scores
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding, layout_of


@pytest.mark.parametrize("chunked", [False, True])
def test_scores_equal_those_of_the_whole_logits(chunked, tiny_experiment, monkeypatch):
    """On two devices of two rows each; if few logits fit, the program holds those of a part of the tokens."""
    if chunked:
        monkeypatch.setattr(cross_entropy, "MAX_LOGITS", 257 * 8)
    model = dataclasses.replace(tiny_experiment().model, num_layers=1 + chunked, scan_layers=True)
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(0))
    draw = np.random.default_rng(0)
    batch = {name: draw.integers(0, 257, (4, 12), np.int32) for name in ("tokens", "targets")}
    logits = jax.jit(lambda params, ids: forward(model, params, ids).logits_BTV)(params, batch["tokens"])
    batch["targets"][:, ::2] = np.asarray(logits.argmax(-1))[:, ::2]
    layout = layout_of(make_mesh(Mesh(data=2), jax.devices()[:2]), Sharding())
    compiled = compile_token_scores(model, layout)
    nll, hits = compiled(params, batch)
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, expected, atol=2e-5)
    np.testing.assert_array_equal(hits, logits.argmax(-1) == batch["targets"])
    assert hits[:, ::2].all()
    text = compiled.lower(params, batch).as_text()
    assert ("tensor<24x257xf32>" in text) is not chunked
    assert ("tensor<8x257xf32>" in text) is chunked
