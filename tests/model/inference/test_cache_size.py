"""The size of a cache: as many slots as texts need, in few sizes; windows need only the keys that they see."""

import dataclasses
import itertools
import logging

import jax
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import SlidingWindow
from model.config import ModelConfig
from model.families.sizes import published
from model.feedforward.mlp import MLP, Gated
from model.inference.generate import cache_bytes, cache_slots, generate
from model.inference.sampling import Sampling
from model.parameters.precision import Precision
from model.transformer import init
from train.generation.texts import largest_cache_bytes

CONFIG = ModelConfig(
    vocab_size=61,
    context_length=1000,
    num_layers=2,
    width=16,
    mixer=GroupedQuery(num_heads=4, num_kv_heads=2),
    ffn=MLP(width=32),
)


@pytest.mark.parametrize(
    ("prompt", "budget", "slots"),
    [(1, 1, 64), (20, 45, 64), (20, 46, 96), (64, 128, 192), (64, 129, 192), (64, 130, 256), (500, 900, 1000)],
)
def test_a_cache_is_as_long_as_prompt_and_budget_need(prompt, budget, slots):
    assert cache_slots(CONFIG, [[0] * prompt, [0]], budget) == slots


def test_llama_3_2_1b_takes_megabytes_for_a_short_text():
    """20 tokens and 100 new ones: 4.2 MB, where a cache of the whole context of 131,072 tokens took 4.3 GB."""
    config = dataclasses.replace(
        published("llama-3.1-8b"),
        num_layers=16,
        width=2048,
        mixer=GroupedQuery(num_heads=32, num_kv_heads=8),
        ffn=Gated(width=8192),
        precision=Precision(compute="bfloat16"),
    )
    slots = cache_slots(config, [[0] * 20], 100)
    assert slots == 128
    assert cache_bytes(config, 1, slots) == 16 * 2 * slots * 8 * 64 * 2 == 4_194_304
    assert cache_bytes(config, 1, config.context_length) == 4_294_967_296
    assert largest_cache_bytes(config, [[0] * 20] * 3, 100, batch_size=2) == 2 * 4_194_304


def test_windows_take_no_more_slots_than_they_see():
    window = GroupedQuery(num_heads=4, pattern=SlidingWindow(size=16))
    config = dataclasses.replace(CONFIG, context_length=4096, mixer=window)
    assert cache_bytes(config, 3, 4096) == cache_bytes(config, 3, 256) == 2 * 2 * 3 * 4 * 16 * 4 * 4


def test_few_programs_for_texts_of_all_lengths(caplog):
    """Prompts of a hundred lengths and many budgets, whose caches have few sizes."""
    config = dataclasses.replace(CONFIG, context_length=2000, num_layers=1)
    params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    lengths, budgets = [*range(1, 150, 29), 200, 333, 500, 700, 1500, 1999], (1, 2)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for length, budget in itertools.product(lengths, budgets):
            generate(config, params, [[1] * length], Sampling(temperature=0, max_tokens=budget), chunk=256)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(")]
    slots = {cache_slots(config, [[1] * length], budget) for length in lengths for budget in budgets}
    assert slots == {64, 96, 128, 192, 256, 384, 512, 768, 1536, 2000}
    for name in ("init_decode_state", "prefill", "decode"):
        assert sum(f"jit({name})" in message for message in compiled) <= len(slots), name
