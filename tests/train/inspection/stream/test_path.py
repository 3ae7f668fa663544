"""Norms of the stream and of writes to it against NumPy; the path ends at the model's probability."""

import numpy as np
import pytest

from model.taps.request import Tap
from model.transformer import forward
from tests.train.inspection.models import FAMILIES, subject, tokens
from tests.train.inspection.sources import BOTH, reads_source, run_of
from train.inspection.stream.path import inspect, path, writes
from train.run.loading import load_run


def test_norms_and_cosines_are_those_of_numpy():
    model, ids = subject(FAMILIES["parallel"]), tokens(1)[0]
    output = forward(model.config, model.params, ids[None], taps=("embedding", "block_output", "ffn_output"))
    stream = np.concatenate([output.taps["embedding"][None], output.taps["block_output"]])[:, 0]
    found = path(model, ids, 3)
    np.testing.assert_allclose(found.norm_LT, np.linalg.norm(stream, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(found.logit_LT[-1], output.logits_BTV[0, :, 3], atol=1e-5)
    z = np.exp(np.asarray(output.logits_BTV[0], np.float64))
    np.testing.assert_allclose(found.probability_LT[-1], z[:, 3] / z.sum(-1), atol=1e-5)
    written, ffn = writes(model, ids), output.taps["ffn_output"][:, 0]
    np.testing.assert_allclose(written["ffn"].norm_LT, np.linalg.norm(ffn, axis=-1), rtol=1e-5)
    cosine = (stream[:-1] * ffn).sum(-1) / np.linalg.norm(stream[:-1], axis=-1) / np.linalg.norm(ffn, axis=-1)
    np.testing.assert_allclose(written["ffn"].cosine_LT, cosine, atol=1e-5)


def test_the_page_of_a_run(tiny_run, tmp_path):
    result = inspect(load_run(tiny_run), text="the cat")
    assert result.numbers["probability"][-1] == pytest.approx(result.numbers["answer"]["probability"], abs=1e-5)
    assert "cosine of ffn" in result.write(tmp_path).read_text()


@pytest.mark.sweep
def test_the_stream_beside_a_source_has_the_writes_of_cross_attention():
    result = inspect(run_of(BOTH), text="abc", source="one")
    assert result.numbers["probability"][-1] == pytest.approx(result.numbers["answer"]["probability"], abs=1e-5)
    assert "cosine of cross" in result.parts[0].head
    model, ids = reads_source(BOTH), tokens(1, vocab=257)[0]
    cross = model.taps(ids[None], Tap("cross_output"))["cross_output"][:, 0]
    np.testing.assert_allclose(writes(model, ids)["cross"].norm_LT, np.linalg.norm(cross, axis=-1), rtol=1e-5)
