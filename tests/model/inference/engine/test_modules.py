"""Guesses of a model's own modules: they are those of the equations, they change no bit, and right ones save steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from model.attention.grouped_query import GroupedQuery
from model.errors import UserError
from model.feedforward.mlp import Gated
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.inference.engine.speculation import Modules
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.layers import Except
from model.positions.absolute import NoPositions
from model.transformer import forward
from model.vocabulary.embedding import Untied
from model.vocabulary.multi_token import MultiToken
from tests.model.inference.engine.serving import DENSE, MODELS, engine_of, serve
from tests.model.inference.engine.test_exactness import HEADS, check_as_alone, few, schedules
from tests.model.inference.greedy import draw
from tests.model.vocabulary.test_multi_token import block_by_hand, rms
from tests.tiers import SWEEP

DEEP = MultiToken(depth=2)
PLAIN = dataclasses.replace(
    DENSE, multi_token=DEEP, num_layers=1, position=NoPositions(), ffn=Gated(width=24), unembedding=Untied()
)


def engine_with(config, params, **options):
    return Engine(config, params, EngineOptions(rows=2, tokens_per_step=9, page_size=4, cache_tokens=44, **options))


@functools.cache
def both(name):
    """Engines with and without guesses of one model with modules, and what requests got alone."""
    if name == "plain":
        guessing, params = plain()
        return guessing, (engine_with(PLAIN, params, max_logprobs=3), params, {})
    config = dataclasses.replace(MODELS[name], multi_token=DEEP)
    params = draw(config)
    guessing = engine_with(config, params, max_logprobs=3, speculation=Modules(tokens=2))
    return guessing, (engine_with(config, params, max_logprobs=3), params, {})


def check(name, schedule):
    guessing, without = both(name)
    guessing.replace_params(without[1])
    check_as_alone(guessing, without, schedule)
    assert guessing.is_exact


@few(4)
@given(schedule=schedules())
def test_answers_are_those_without_guesses(schedule):
    check("plain", schedule)


@SWEEP
@pytest.mark.parametrize("name", ["dense", "window", "latent", "experts", "positions of lengths", "adapters"])
@few(40)
@given(schedule=schedules())
def test_many_schedules(name, schedule):
    check(name, schedule)


def guesses_by_hand(params, stream, tokens, prompt):
    """The guesses of two modules after each token, by the equations in float64; the second keeps the first's guesses."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    table, count = p["embedding"]["table"], len(tokens)
    later, h, guesses = np.array([*tokens[1:], 0]), np.asarray(stream, np.float64), []
    for k in range(2):
        q = jax.tree.map(lambda a, k=k: a[k], p["multi_token"])
        parts = [rms(h, q["stream_norm"]["scale"]), rms(table[later], q["token_norm"]["scale"])]
        h = block_by_hand(q["block"], np.concatenate(parts, axis=1) @ q["projection"], np.zeros(count))
        guesses.append(np.argmax(rms(h, q["final_norm"]["scale"]) @ p["embedding"]["output"], axis=1))
        later = np.array([*tokens[2:], 0, 0])
        later[prompt - 2] = 0  # not drawn yet when the prompt was read
        later[prompt - 1 :] = guesses[0][prompt - 1 :]
    return np.stack(guesses, axis=1)


@functools.cache
def plain():
    """An engine that guesses two tokens, and its parameters."""
    params = draw(PLAIN)
    return engine_with(PLAIN, params, max_logprobs=3, speculation=Modules(tokens=2)), params


def test_guesses_are_those_of_the_equations():
    engine, params = plain()
    engine.replace_params(params)
    prompt = tuple(HEADS[0][:11])
    text = engine._texts[engine.submit(Request(prompt=prompt, sampling=Sampling(temperature=0, max_tokens=20)))]
    found = {}
    while engine.num_unfinished:
        engine.step()
        if len(text.tokens) > len(prompt):
            found[len(text.tokens) - 2] = text.by_modules
    ids = np.array([text.tokens])
    run = jax.jit(lambda p: forward(PLAIN, p, ids, taps=("block_output",)).taps["block_output"][-1, 0])
    stream = run(params)
    expected = guesses_by_hand(params, stream, text.tokens, len(prompt))
    assert len(found) > 10
    assert found == {place: tuple(expected[place].tolist()) for place in found}


def knowing(params):
    """Parameters whose next token depends on the last one alone, and modules that know it."""
    params = jax.tree.map(jnp.copy, params)
    for block in (params["blocks"], params["multi_token"]["block"]):
        block["mixer"]["output"] *= 0
        block["ffn"]["down"] *= 0
    eye = jnp.concatenate([jnp.zeros((16, 16)), jnp.eye(16)])
    params["multi_token"]["projection"] = jnp.stack([eye, eye])
    return params


def test_right_guesses_save_steps():
    """Greedy and drawn; the rates are those of the statistics."""
    engine, params = plain()
    engine.replace_params(knowing(params))
    requests = [
        Request(prompt=tuple(HEADS[0][:7]), sampling=Sampling(temperature=t, max_tokens=13)) for t in (0.0, 1.0)
    ]
    before = engine.statistics
    serve(engine, requests)
    now = engine.statistics
    accepted = now.accepted_tokens - before.accepted_tokens
    assert accepted == now.proposed_tokens - before.proposed_tokens == 26 - (now.text_steps - before.text_steps)
    assert now.text_steps - before.text_steps == 2 * (1 + 12 // 3)


def test_models_that_cannot_guess_are_refused():
    takes = GroupedQuery(num_heads=4, num_kv_heads=2, kv_from_layer=0)
    taking = dataclasses.replace(DENSE, multi_token=DEEP, exceptions=(Except(layers="1", mixer=takes),))
    for config, tokens, message in (
        (DENSE, 1, r"needs modules of multi-token prediction, and the model has none \(model.multi_token=None\)"),
        (PLAIN, 3, "the model has 2 modules, and each guesses one token, got 3; lower it"),
        (taking, 1, r"blocks with a GroupedQuery that takes arrays of earlier layers"),
        (dataclasses.replace(MODELS["GRU"], multi_token=DEEP), 1, "whose state cannot give back a guess"),
    ):
        with pytest.raises(UserError, match=message):
            Engine(config, {}, EngineOptions(speculation=Modules(tokens=tokens)))
    with pytest.raises(UserError, match="tokens: must be from 1 to 31, got 0"):
        engine_of("dense", speculation=Modules(tokens=0))
