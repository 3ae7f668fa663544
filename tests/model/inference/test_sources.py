"""Generation with an encoder: greedy texts are those of whole passes, rows do not depend on each other."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.encoder.source import Source
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.inference.sources import prompt_and_source, slots_of
from model.positions.absolute import NoPositions
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK
from model.recurrent.gru import GRU

PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [3, 5, 8]]


@pytest.fixture(scope="module")
def config(small):
    encoder = Encoder(
        num_layers=1,
        context_length=24,
        mixer=GroupedQuery(num_heads=2),
        ffn=MLP(width=20),
        cross=CrossAttention(num_heads=2),
        start_token=7,
    )
    return small(encoder=encoder)


@pytest.mark.parametrize(
    "changes", [{}, {"mixer": GRU(num_heads=2), "position": NoPositions()}], ids=["attention", "recurrence"]
)
def test_greedy_texts_are_those_of_whole_passes(changes, config, drawn, run):
    config = dataclasses.replace(config, **changes)
    params = drawn(config)
    got = generate(config, params, PROMPTS, Sampling(max_tokens=5, temperature=0.0))
    tokens, lengths = np.zeros((3, 7), np.int32), np.array([len(prompt) for prompt in PROMPTS])
    for row, prompt in zip(tokens, PROMPTS):
        row[: len(prompt)] = prompt
    texts = np.zeros((3, 6), np.int32)
    texts[:, 0] = 7
    for at in range(5):
        logits = run(config, params, texts, source=Source.of_lengths(jnp.asarray(tokens), jnp.asarray(lengths)))[0]
        texts[:, at + 1] = np.argmax(logits[:, at], axis=-1)
    assert got == texts[:, 1:].tolist()


def test_a_row_does_not_depend_on_the_others(config, drawn):
    sampling = Sampling(max_tokens=4, seed=3)
    together = generate(config, drawn(config), [PROMPTS[0], PROMPTS[1], PROMPTS[0]], sampling)
    assert together[:2] == [generate(config, drawn(config), [prompt], sampling)[0] for prompt in PROMPTS[:2]]
    assert together[2] != together[0]


def test_what_is_refused(config, drawn):
    sampling = Sampling(max_tokens=2)
    for prompts, message in (
        ([[]], "prompt 1 has no tokens; expected a source"),
        ([[1] * 25], "prompt 1 has 25 tokens, more than the context of 24"),
        ([[1], [99]], "prompt 2 has ids from 99 to 99"),
    ):
        with pytest.raises(UserError, match=message):
            generate(config, drawn(config), prompts, sampling)
    scaled = dataclasses.replace(config, position=Rotary(scaling=DynamicNTK(factor=2.0, original_length=4)))
    with pytest.raises(UserError, match="positions that depend on its length"):
        generate(scaled, drawn(scaled), [[1]], sampling)


def test_the_engine_gets_the_same_beginning_and_sizes(config):
    assert prompt_and_source(config.encoder, [3, 1]) == ((7,), (3, 1))
    assert prompt_and_source(None, [3, 1]) == ((3, 1), None)
    assert [slots_of(length, 40) for length in (1, 16, 17, 33, 40)] == [16, 16, 32, 40, 40]
