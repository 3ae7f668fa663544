"""Where prefixes end, which targets count, and the loss of these alone."""

import jax
import numpy as np
import pytest

from model.attention.directions import PrefixLM
from model.layout import ONE_DEVICE
from model.options.tree import find_problems
from model.transformer import forward
from train.objectives.prefix import PrefixTokens

SEGMENTS = np.array([[1, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0, 0, 0]], np.int32)
POSITIONS = np.array([[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 0, 0, 0, 0]], np.int32)
TOKENS = np.random.default_rng(0).integers(0, 17, (2, 8)).astype(np.int32)
BATCH = {
    "tokens": TOKENS,
    "targets": np.roll(TOKENS, -1, axis=1),
    "weights": (SEGMENTS > 0).astype(np.float32),
    "segment_ids": SEGMENTS,
    "positions": POSITIONS,
}


def drawn(small, key):
    model = small(visibility=PrefixLM())
    return jax.tree.map(np.asarray, PrefixTokens().drawn(model, BATCH, jax.random.key(key)))


def test_every_length_of_a_prefix_is_drawn_for_every_document(small):
    seen = {document: [] for document in ((0, 1), (0, 2), (1, 1))}
    for key in range(200):
        batch = drawn(small, key)
        for row, document in seen:
            prefix = batch["prefix"][row][SEGMENTS[row] == document]
            assert len(set(prefix)) == 1
            seen[row, document].append(int(prefix[0]))
            after = batch["after"][row][SEGMENTS[row] == document]
            np.testing.assert_array_equal(after, np.arange(len(prefix)) >= prefix[0] - 1)
        assert not batch["after"][1, 4:].any()
    for (row, document), lengths in seen.items():
        size = int((SEGMENTS[row] == document).sum())
        np.testing.assert_allclose(np.bincount(lengths, minlength=size + 1)[1:] / 200, 1 / size, atol=0.12)
        assert min(lengths) == 1


def test_the_loss_is_that_of_the_targets_after_the_prefix(small, drawn_params):
    model = small(visibility=PrefixLM())
    params, batch = drawn_params(model), drawn(small, 3)
    rows = {f"{name}_BT": batch[name] for name in ("positions", "segment_ids", "prefix")}
    logits = np.asarray(forward(model, params, TOKENS, **rows).logits_BTV, np.float64)
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -sum(logp[b, t, batch["targets"][b, t]] for b, t in zip(*np.nonzero(batch["after"]), strict=True))
    _, sums = PrefixTokens().loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)
    assert float(sums.loss) == pytest.approx(expected, rel=1e-5)
    assert float(PrefixTokens().weight(batch)) == batch["after"].sum() < 12
    assert int(PrefixTokens().tokens(batch)) == 12


def test_a_prefix_changes_the_loss_of_later_targets(small, drawn_params):
    """A bidirectional prefix is another function of the text than a causal one."""
    model = small(visibility=PrefixLM())
    params, batch = drawn_params(model), drawn(small, 3)
    causal = {**batch, "prefix": np.zeros_like(batch["prefix"])}
    of = lambda batch: float(PrefixTokens().loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)[0])  # noqa: E731
    assert abs(of(batch) - of(causal)) > 1e-3


def test_a_run_on_prefixes_samples_after_prompts(tiny_experiment, tmp_path):
    from train.loop import train

    small = {"model__num_layers": 1, "model__width": 16, "model__ffn__width": 16, "training__num_steps": 4}
    every = {"evaluation__every": 4, "evaluation__max_batches": 2, "checkpoints__every": 4}
    experiment = tiny_experiment(objective=PrefixTokens(), model__visibility="PrefixLM()", **small | every)
    train(experiment, tmp_path / "run")
    assert "the " in (tmp_path / "run" / "samples.txt").read_text()


def test_a_causal_model_is_refused(tiny_experiment):
    import dataclasses

    wrong = dataclasses.replace(tiny_experiment(), objective=PrefixTokens())
    expected = "model.visibility: PrefixTokens trains a model with PrefixLM(), not with Causal()"
    assert any(expected in problem for problem in find_problems(wrong))
