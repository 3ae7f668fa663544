"""Hidden tokens: how many, which, what replaces them, and the loss of them alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from model.attention.directions import Bidirectional
from model.layout import ONE_DEVICE
from model.options.tree import find_problems
from model.transformer import forward
from train.objectives.masked import MaskedTokens, Spans, start_rate

V, MASK = 17, 16
ROWS, LENGTH = 64, 512


def big_batch():
    """Tokens 3 everywhere, of which column 0 is a mark and the last eight columns are padding."""
    text = np.ones((ROWS, LENGTH), np.int8)
    text[:, 0] = text[:, -8:] = 0
    return {"tokens": np.full((ROWS, LENGTH), 3, np.int32), "text": text, "weights": (text > 0).astype(np.float32)}


def drawn(objective, small, batch=None, key=0):
    model = small(vocab_size=V, visibility=Bidirectional())
    return jax.tree.map(
        np.asarray, objective.drawn(model, big_batch() if batch is None else batch, jax.random.key(key))
    )


@pytest.mark.parametrize("spans", [None, Spans(), Spans(stop=0.5, longest=4)], ids=repr)
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_every_token_of_text_is_chosen_equally_often(rate, spans, small):
    """32,000 draws: a share is known to 0.3% (tokens) and, as those of a span go together, to under 1% (spans)."""
    batch = drawn(MaskedTokens(rate=rate, spans=spans), small)
    text = big_batch()["text"] > 0
    assert not batch["hidden"][~text].any()
    assert abs(batch["hidden"][text].mean() - rate) < (0.01 if spans is None else 0.02)
    by_column = batch["hidden"].mean(axis=0)
    halves = by_column[1:20].mean(), by_column[240:259].mean()
    assert abs(halves[0] - halves[1]) < 0.08, "the first tokens of a row are chosen as often as the others"
    assert (batch["read"] == 3)[~(batch["hidden"] > 0)].all()


def test_what_replaces_a_chosen_token(small):
    batch = drawn(MaskedTokens(rate=0.5), small)
    read = batch["read"][batch["hidden"] > 0]
    shares = np.bincount(read, minlength=V) / len(read)
    assert abs(shares[MASK] - 0.8) < 0.02
    others = np.delete(shares, [3, MASK])
    np.testing.assert_allclose(others, 0.1 / 16, atol=0.002)  # random ones are any but the mask
    assert abs(shares[3] - (0.1 + 0.1 / 16)) < 0.01  # some stay, and a random one may be the same
    inner = drawn(MaskedTokens(rate=0.5, mask_share=0.0, random_share=1.0, mask_id=5), small)
    assert 5 not in inner["read"], "the mask's own id is not drawn"
    assert set(np.unique(inner["read"])) == set(range(V)) - {5}
    whole = drawn(MaskedTokens(rate=0.5, mask_share=1.0, random_share=0.0), small)
    assert (whole["read"] == np.where(whole["hidden"] > 0, MASK, 3)).all()


def test_spans_have_the_lengths_that_are_asked_for_and_one_fate(small):
    """At a rate of 1% spans hardly overlap: runs of hidden tokens are spans."""
    batch = drawn(MaskedTokens(rate=0.01, spans=Spans(stop=0.5, longest=4), mask_share=0.5, random_share=0.0), small)
    runs, uniform = [], []
    for hidden, read in zip(batch["hidden"] > 0, batch["read"], strict=True):
        edges = np.flatnonzero(np.diff(np.r_[0, hidden, 0]))
        for first, stop in zip(edges[::2], edges[1::2], strict=True):
            runs.append(stop - first)
            uniform.append(len(set(read[first:stop])) == 1)
    shares = np.bincount(runs, minlength=5)[1:5] / len(runs)
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.125, 0.125], atol=0.08)
    assert np.mean(uniform) > 0.95


def test_the_rate_of_starts_by_its_equation():
    assert start_rate(0.15, [1.0]) == pytest.approx(0.15, abs=1e-12)
    reaches = Spans(stop=0.2, longest=3).reaches()
    assert reaches == [1.0, 0.8, pytest.approx(0.64)]
    q = start_rate(0.3, reaches)
    assert (1 - q) * (1 - 0.8 * q) * (1 - 0.64 * q) == pytest.approx(0.7, abs=1e-12)


def test_a_draw_is_a_function_of_the_batch_and_the_key(small):
    one, same, other = (drawn(MaskedTokens(), small, key=key) for key in (0, 0, 1))
    np.testing.assert_array_equal(one["read"], same["read"])
    assert (one["hidden"] != other["hidden"]).mean() > 0.2


def test_the_loss_is_that_of_hidden_tokens(small, drawn_params):
    objective, model = MaskedTokens(rate=0.4), small(visibility=Bidirectional())
    tokens = np.random.default_rng(0).integers(0, V - 1, (2, 12)).astype(np.int32)
    ones = np.ones(tokens.shape, np.int8)
    batch = {"tokens": tokens, "text": ones, "weights": ones.astype(np.float32)}
    params, batch = drawn_params(model), drawn(objective, small, batch)
    logits = np.asarray(forward(model, params, batch["read"]).logits_BTV, np.float64)
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -sum(logp[b, t, tokens[b, t]] for b, t in zip(*np.nonzero(batch["hidden"]), strict=True))
    total, sums = objective.loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)
    assert float(sums.loss) == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert (int(objective.tokens(batch)), float(objective.weight(batch))) == (24, batch["hidden"].sum())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (MaskedTokens(rate=0.0), "rate: must be above 0 and below 1, got 0.0"),
        (MaskedTokens(mask_share=0.9, random_share=0.2), "random_share: 0.2 and mask_share=0.9 are more than all"),
        (MaskedTokens(random_share=-0.1), "random_share: must be from 0 to 1, got -0.1"),
        (MaskedTokens(mask_id=-1), "mask_id: must be 0 or more, or None for an id of its own, got -1"),
        (MaskedTokens(spans=Spans(stop=1.0)), "spans.stop: must be above 0 and below 1, got 1.0; use spans=None"),
        (MaskedTokens(spans=Spans(longest=1)), "spans.longest: must be from 2 to 64, got 1; use spans=None"),
    ],
)
def test_bad_options(objective, message):
    assert any(message in problem for problem in find_problems(objective))


ENCODER = {"model__visibility": "Bidirectional()", "model__vocab_size": 258, "samples__prompts": ()}


@pytest.fixture(scope="module")
def masked_experiment(tiny_experiment):
    """A function that makes an experiment on masked bytes; takes overrides as `tiny_experiment` does."""
    small = {"model__num_layers": 1, "model__width": 16, "model__ffn__width": 16, "training__num_steps": 6}
    every = {"evaluation__every": 3, "evaluation__max_batches": 2, "checkpoints__every": 3}
    return lambda **changes: tiny_experiment(objective=MaskedTokens(), **ENCODER | small | every | changes)


def test_a_run_learns_and_resumes_to_the_byte(masked_experiment, tmp_path):
    from train.loop import train

    experiment = masked_experiment()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(experiment, whole)
    train(experiment, parts, hard_stop=4)
    train(experiment, parts)
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "eval"]
    assert losses[-1] < losses[0] < 6.5


def test_micro_batches_hide_the_tokens_of_the_whole_batch(masked_experiment):
    from train.objectives.drawn import with_draws
    from train.state import StateConfig, init_state
    from train.step import train_step

    found = []
    for parts in (1, 4):
        experiment = masked_experiment(training__gradient_accumulation=parts)
        state = jax.jit(init_state, static_argnums=0)(StateConfig.of(experiment), 0)
        tokens = np.random.default_rng(0).integers(0, 256, (8, 16)).astype(np.int32)
        ones = np.ones(tokens.shape, np.int32)
        batch = {"tokens": tokens, "text": ones, "weights": ones.astype(np.float32), "segment_ids": ones}
        batch |= {"positions": np.broadcast_to(np.arange(16, dtype=np.int32), tokens.shape)}
        hidden = with_draws(experiment.objective, experiment.model, batch, state.key, state.step)["hidden"]
        _, metrics = jax.jit(lambda s, b, e=experiment: train_step(e, ONE_DEVICE, s, b))(state, batch)
        assert int(metrics["tokens"]) == 128 > hidden.sum()
        found.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_what_does_not_fit_is_named(masked_experiment, tiny_experiment):
    valid = masked_experiment()
    replaced = lambda **changes: "\n".join(find_problems(dataclasses.replace(valid, **changes)))  # noqa: E731
    causal = dataclasses.replace(valid.model, visibility=type(tiny_experiment().model.visibility)())
    assert "model.visibility: MaskedTokens trains a model with Bidirectional(), not with Causal()" in replaced(
        model=causal
    )
    next_token = tiny_experiment().objective
    assert "objective: NextToken predicts next tokens, which Bidirectional() shows" in replaced(objective=next_token)
    prompts = dataclasses.replace(valid.samples, prompts=("a",))
    assert "samples.prompts: a model with Bidirectional() writes no text" in replaced(samples=prompts)
    assert "objective.mask_id: must be an id of model.vocab_size=258, got 300" in replaced(
        objective=MaskedTokens(mask_id=300)
    )


def test_the_tokenizer_has_one_token_less_than_the_model(masked_experiment, tmp_path):
    from model.errors import UserError
    from train.loop import train

    with pytest.raises(
        UserError, match=r"model.vocab_size=257 of which 1 is for the mask, but the tokenizer .* has 257"
    ):
        train(masked_experiment(model__vocab_size=257), tmp_path / "run")
