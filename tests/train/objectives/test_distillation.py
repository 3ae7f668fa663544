"""Distillation against its equations in NumPy float64; the arrays that it makes; runs with a teacher."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.options.tree import find_problems
from model.vocabulary import cross_entropy
from tests.model.conftest import drawn_params, small_config
from tests.train.test_frozen_parameters import shapes_made
from train.loop import train
from train.objectives.distillation import IDS, LOG_PROBABILITIES, Distillation, Teacher, divergence_of, teacher_targets
from train.run.metrics import read_metrics

STUDENT = small_config()
TEACHER = small_config(width=24, num_layers=1)
DRAW = np.random.default_rng(0)
BATCH = {
    "tokens": DRAW.integers(0, 17, (2, 8)).astype(np.int32),
    "targets": DRAW.integers(0, 17, (2, 8)).astype(np.int32),
    "weights": (DRAW.random((2, 8)) < 0.7).astype(np.float32),
}


def logits(config, seed):
    from model.transformer import forward

    return np.asarray(forward(config, drawn_params(config, seed), BATCH["tokens"]).logits_BTV, np.float64)


def log_softmax(x):
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


def equation(kind, log_q, log_p):
    """The divergence, outcome by outcome, in float64."""
    q, p = np.exp(log_q), np.exp(log_p)
    m = (q + p) / 2
    if kind == "jsd":
        return (np.sum(q * np.log(q / m), -1) + np.sum(p * np.log(p / m), -1)) / 2
    return np.sum(q * np.log(q / p), -1) if kind == "forward" else np.sum(p * np.log(p / q), -1)


@pytest.fixture(scope="module")
def completed():
    """The batch with all of the teacher's probabilities at temperature 2, and with three of each token."""
    params = drawn_params(TEACHER, 1)
    targets = functools.partial(teacher_targets, TEACHER, params, BATCH, ONE_DEVICE, 2.0)
    return {k: BATCH | targets(k) for k in (17, 3)}


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("top_k", [17, 3])
def test_the_loss_is_the_equation(completed, kind, top_k):
    """Of all tokens, or of three and all others together; t^2 times the divergence, mixed with the cross-entropy."""
    option = Distillation(teacher="x", divergence=kind, temperature=2.0, mixture=0.75, top_k=top_k)
    total, sums = option.loss(STUDENT, drawn_params(STUDENT, 0), completed[top_k], dropout_key=None, layout=ONE_DEVICE)
    ours, theirs = logits(STUDENT, 0), logits(TEACHER, 1)
    log_q, log_p = log_softmax(theirs / 2), log_softmax(ours / 2)
    if top_k < 17:
        kept = np.argsort(-log_q, -1)[..., :top_k]
        listed = [np.take_along_axis(x, kept, -1) for x in (log_q, log_p)]
        log_q, log_p = (np.concatenate([x, np.log(1 - np.exp(x).sum(-1, keepdims=True))], -1) for x in listed)
    divergence = (equation(kind, log_q, log_p) * BATCH["weights"]).sum()
    nll = (-np.take_along_axis(log_softmax(ours), BATCH["targets"][..., None], -1)[..., 0] * BATCH["weights"]).sum()
    np.testing.assert_allclose(sums.losses["divergence"], divergence, rtol=2e-4)
    np.testing.assert_allclose(sums.losses["next_token"], nll, rtol=2e-5)
    np.testing.assert_allclose(total, 0.75 * 4 * divergence + 0.25 * nll, rtol=2e-4)
    assert float(sums.loss) == float(total)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_a_student_that_equals_its_teacher_has_no_divergence(kind):
    log_q = jnp.asarray(log_softmax(DRAW.normal(size=(4, 9))), jnp.float32)
    np.testing.assert_allclose(divergence_of(kind, log_q, log_q), 0, atol=1e-6)
    moved = jax.grad(lambda x: jnp.sum(divergence_of(kind, log_q, jax.nn.log_softmax(x))))(log_q)
    np.testing.assert_allclose(moved, 0, atol=1e-6)


def test_no_array_has_all_tokens_and_the_vocabulary(completed, monkeypatch):
    """Four positions at a time, forward and backward, of teacher and student; with the gradient of whole logits."""
    option, params = Distillation(teacher="x", temperature=2.0, top_k=3), drawn_params(STUDENT, 0)

    def total(params):
        return option.loss(STUDENT, params, completed[3], dropout_key=None, layout=ONE_DEVICE)[0]

    whole = jax.jit(lambda p: jax.grad(total)(p))(params)
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", 2 * 4 * 17)
    of_teacher = lambda p: teacher_targets(TEACHER, p, BATCH, ONE_DEVICE, 2.0, 3)  # noqa: E731
    for function, argument in ((jax.grad(total), params), (of_teacher, drawn_params(TEACHER, 1))):
        shapes = {shape for shape in shapes_made(jax.make_jaxpr(function)(argument).jaxpr) if shape}
        assert (2, 4, 17) in shapes
        assert not {
            shape for shape in shapes if 17 in shape and np.prod(shape) >= 2 * 8 * 17 and 16 not in shape[:-2]
        } - {(17, 16), (16, 17), (17, 24), (24, 17)}
    parts = jax.jit(lambda p: jax.grad(total)(p))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), parts, whole)
    found = of_teacher(drawn_params(TEACHER, 1))
    np.testing.assert_array_equal(found[IDS], completed[3][IDS])
    np.testing.assert_allclose(found[LOG_PROBABILITIES], completed[3][LOG_PROBABILITIES], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"temperature": 0.0}, "temperature: must be above 0, got 0.0"),
        ({"mixture": 0.0}, "mixture: must be above 0 and at most 1, got 0.0; without a teacher take NextToken()"),
        ({"top_k": 0}, "top_k: must be at least 1, got 0"),
    ],
)
def test_bad_options(changes, problem):
    assert find_problems(Distillation(teacher="x", **changes)) == [problem]


def test_a_run_with_a_teacher(tiny_experiment, tiny_run, tmp_path):
    """The first divergence is that of the start from the teacher, and a student that is the teacher has none."""
    objective = Distillation(teacher=str(tiny_run), top_k=32, mixture=0.5)
    experiment = tiny_experiment(
        objective=objective,
        training__num_steps=2,
        schedule__warmup_steps=0,
        training__init_from=str(tiny_run),
        samples__prompts=(),
    )
    train(experiment, tmp_path / "same", say=lambda line: None)
    first = read_metrics(tmp_path / "same")[0]
    assert abs(first["divergence"]) < 1e-4
    assert first["loss"] == pytest.approx(0.5 * first["next_token"], rel=1e-3)


def test_teachers_that_do_not_fit_are_named(tiny_experiment, tiny_run):
    def session(tokenizer="own", **changes):
        from train.run.loading import load_run

        experiment = tiny_experiment(objective=Distillation(teacher=str(tiny_run)), **changes)
        own = load_run(tiny_run).tokenizer
        other = types.SimpleNamespace(fingerprint=lambda: "another", vocab_size=99)
        dataset = types.SimpleNamespace(tokenizer=own if tokenizer == "own" else other)
        return types.SimpleNamespace(experiment=experiment, dataset=dataset, layout=ONE_DEVICE)

    with pytest.raises(UserError, match=r"has another tokenizer \(257 tokens\) than this run \(99\)"):
        Teacher(Distillation(teacher=str(tiny_run)), session("other"))
    with pytest.raises(UserError, match="reads 32 tokens, fewer than data.sequence_length=64"):
        Teacher(Distillation(teacher=str(tiny_run)), session(model__context_length=64, data__sequence_length=64))
