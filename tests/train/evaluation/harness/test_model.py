"""Against the answers of lm_eval's Hugging Face backend, recorded by tests/parity/harness/compare.py."""

import pytest

from model.errors import UserError
from model.inference.generate import generate
from model.inference.sampling import Sampling
from train.evaluation.harness.requests import Continuation, parse_generation, rolling_windows


def continuation(model, context, text):
    """The tokens of a request, as `TemplateLM` makes them; spaces at the end of a context belong to the continuation."""
    if not context:
        return Continuation([model.marks.prefix], model.encode(text, add_begin=False))
    bare = context.rstrip()
    whole, before = model.encode(context + text), model.encode(bare)
    return Continuation(before, whole[len(before) :])


def test_log_likelihoods_and_greedy_choices(recorded):
    model, requests, answers = recorded
    asked = [continuation(model, *pair) for pair in requests["loglikelihood"]]
    assert max(len(context) for context, _ in asked) > model.max_length  # some lose their beginning
    told = []
    found = model.score(asked, told.append)
    assert sum(told) == len(asked)
    for (value, greedy), (expected, is_greedy) in zip(found, answers["loglikelihood"], strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy is is_greedy


def test_rolling_log_likelihoods(recorded):
    model, requests, answers = recorded
    for (text,), expected in zip(requests["loglikelihood_rolling"], answers["loglikelihood_rolling"], strict=True):
        windows = list(rolling_windows(model.encode(text), model.marks.prefix, model.max_length))
        total = sum(value for value, _ in model.score(windows))
        assert total == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_generated_texts(recorded):
    model, requests, answers = recorded
    asked = [(context, parse_generation(keywords, "a task")) for context, keywords in requests["generate_until"]]
    assert model.generate(asked) == answers["generate_until"]


def test_greedy_continuations_are_known_as_such(models):
    """The tokens that greedy decoding gives have is_greedy, and lose it with another last token."""
    model = models["adds_begin"]
    run, context = model._run, model.encode("the cat")
    (ids,) = generate(run.experiment.model, run.params, [context], Sampling(max_tokens=5, temperature=0.0))
    right = Continuation(context, ids)
    wrong = Continuation(context, [*right.continuation[:-1], (right.continuation[-1] + 1) % 64])
    flags = [greedy for _, greedy in model.score([right, wrong])]
    assert flags == [True, False]


def test_too_much_for_the_context_is_refused(models):
    model = models["adds_none"]
    with pytest.raises(UserError, match="a continuation has 129 tokens, more than the model's context of 128"):
        model.score([Continuation([1], [5] * 129)])
    long = parse_generation({"max_gen_toks": 128}, "a task")
    with pytest.raises(UserError, match="128 new tokens leave no room for a prompt in .*max_gen_toks of the task"):
        model.generate([("the", long)])


def test_few_programs_are_compiled(models):
    """Rows of three lengths serve requests of any length, and batches have rounded sizes."""
    model = models["adds_none"]
    lengths = {model._row_length(Continuation([1] * n, [2, 3])) for n in range(1, 200)}
    assert lengths == {32, 64, 128}
    ways = model._run.layout.ways("batch")
    assert {model._rows(128, count) // ways for count in range(1, 200)} <= {1, 2, 4, 8, 16, 32, 64}
