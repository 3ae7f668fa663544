"""Rotary positions that depend on the length of the text: a text that outgrows a length is read again."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import model.inference.generate as module
from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import SlidingWindow
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.layers import Except
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK, LongRoPE
from model.recurrent.delta import GatedDelta
from model.transformer import forward
from tests.model.inference.greedy import CONFIG, GREEDY, draw, prompts_of
from tests.tiers import SWEEP
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ParameterAxes, Sharding, layout_of


@pytest.mark.parametrize(
    "scaling",
    [
        pytest.param(DynamicNTK(factor=8.0, original_length=8), marks=SWEEP),
        LongRoPE(short_factors=(1.0, 1.0), long_factors=(3.0, 9.0), original_length=8, factor=4.0),
    ],
    ids=lambda scaling: type(scaling).__name__,
)
def test_a_prompt_is_turned_by_its_own_length(scaling):
    """Neither by that of its chunk nor with padding: around the original length, on both sides of it."""
    config = dataclasses.replace(CONFIG, position=Rotary(theta=9.0, scaling=scaling))
    params = draw(config)
    prompts = prompts_of(7, 9, 20)
    texts = generate(config, params, prompts, Sampling(temperature=0.0, max_tokens=1), chunk=5)
    likeliest = [jnp.argmax(forward(config, params, jnp.array([prompt])).logits_BTV[0, -1]) for prompt in prompts]
    assert texts == [[int(token)] for token in likeliest]
    # At the lengths of this test the scaling decides.
    plain = generate(CONFIG, params, prompts, Sampling(temperature=0.0, max_tokens=1), chunk=5)
    assert plain != texts


LONG = LongRoPE(short_factors=(1.0, 1.0), long_factors=(3.0, 9.0), original_length=8, factor=4.0)


def assert_greedy_at_every_length(config, params, prompts, texts):
    """Every new token is the likeliest after the tokens before it, by a forward pass over these tokens alone."""
    prefixes = [(p + text)[:n] for p, text in zip(prompts, texts, strict=True) for n in range(len(p), len(p + text))]
    ids = np.zeros((len(prefixes), config.context_length), np.int32)
    for row, prefix in zip(ids, prefixes, strict=True):
        row[: len(prefix)] = prefix
    lengths = np.array([len(prefix) for prefix in prefixes])
    forwarded = jax.jit(lambda params, ids, n: forward(config, params, ids, lengths_B=n).logits_BTV)
    logits = np.asarray(forwarded(params, ids, lengths))[np.arange(len(ids)), lengths - 1]
    np.testing.assert_array_equal(np.concatenate(texts), logits.argmax(axis=-1))


def counted_prefills(monkeypatch):
    """Returns a list that gets the shape of each later prefill step."""
    shapes, prefill = [], module.prefill
    counted = lambda *args: shapes.append(args[4].shape) or prefill(*args)  # noqa: E731
    monkeypatch.setattr(module, "prefill", counted)
    return shapes


@pytest.mark.parametrize("chunk", [pytest.param(3, marks=pytest.mark.sweep), 24])
def test_texts_that_outgrow_the_original_length(chunk, monkeypatch):
    """Rows that cross it at different steps, that begin past it, and that end before it; windows and states too."""
    config = dataclasses.replace(
        CONFIG,
        num_layers=3,
        position=Rotary(theta=9.0, scaling=LONG),
        exceptions=(
            Except(layers="1", mixer=GroupedQuery(num_heads=4, pattern=SlidingWindow(size=3))),
            Except(layers="2", mixer=GatedDelta(num_heads=2, chunk=3)),
        ),
    )
    params = draw(config)
    prompts = prompts_of(1, 3, 7, 8, 9, 20, 3)
    shapes = counted_prefills(monkeypatch)
    texts = generate(config, params, prompts, GREEDY, chunk=chunk)
    assert [len(text) for text in texts] == [25 - len(prompt) for prompt in prompts]
    assert_greedy_at_every_length(config, params, prompts, texts)
    chunks = -(-8 // chunk)  # of a text of 9 tokens, the last of which decoding reads
    assert shapes == [(7, chunk)] * -(-19 // chunk) + [(1, chunk)] * (5 * chunks)  # five rows cross it
    stopped = generate(config, params, prompts, GREEDY, chunk=chunk, end=texts[1][4])
    for text, whole in zip(stopped, texts, strict=True):
        assert text == (whole[: whole.index(texts[1][4]) + 1] if texts[1][4] in whole else whole)


def test_dynamic_scaling_reads_a_text_again_at_every_length(monkeypatch, caplog):
    config = dataclasses.replace(CONFIG, position=Rotary(theta=9.0, scaling=DynamicNTK(factor=8.0, original_length=8)))
    params = draw(config)
    prompts = prompts_of(3, 12)
    shapes = counted_prefills(monkeypatch)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        texts = generate(config, params, prompts, Sampling(temperature=0.0, max_tokens=9))
    assert_greedy_at_every_length(config, params, prompts, texts)
    assert len(shapes) == 1 + 8 + 3  # row 1 from step 1 on, where it has 13 tokens, and row 0 from step 6 on
    messages = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(")]
    compiled = {name: sum(f"jit({name})" in m for m in messages) for name in ("prefill", "decode", "_replace_caches")}
    assert compiled == {"prefill": 2, "decode": 1, "_replace_caches": 1}  # prefill of both rows, and of one


def test_only_rows_that_go_on_are_read_again(monkeypatch):
    """Neither a row whose last token is the last of the original length, nor one that ends there early."""
    config = dataclasses.replace(CONFIG, position=Rotary(theta=9.0, scaling=LONG))
    params, sampling = draw(config), Sampling(temperature=0.0, max_tokens=4)
    shapes = counted_prefills(monkeypatch)
    texts = generate(config, params, prompts_of(5, 6), sampling)
    assert len(shapes) == 2  # row 1 reads its ninth token, row 0 does not
    told = []
    ends = lambda row, token: told.append(row) or told.count(1) == 3  # noqa: E731
    assert generate(config, params, prompts_of(5, 6), sampling, on_token=ends) == [texts[0][:4], texts[1][:3]]
    assert len(shapes) == 3


def test_texts_are_read_again_on_a_mesh():
    config = dataclasses.replace(CONFIG, position=Rotary(theta=9.0, scaling=LONG))
    params, mesh = draw(config), make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    layout = layout_of(mesh, Sharding(parameters=ParameterAxes(vocab=())))  # 61 tokens split no way
    prompts = prompts_of(1, 8, 20)
    assert generate(config, params, prompts, GREEDY, layout=layout, chunk=6) == generate(
        config, params, prompts, GREEDY
    )
