"""Decoding with the cache equals the whole forward pass; one program each; rows do not depend on one another."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

import model.inference.generate as module
from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.attention.patterns import Chunked, SlidingWindow
from model.errors import UserError
from model.inference.generate import generate, initial_inputs
from model.inference.prompts import occurrence_indices
from model.inference.sampling import Sampling
from model.layers import Except
from model.parameters.precision import Precision
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.lstm import LSTM
from model.residual import PostNorm
from model.transformer import forward, stream
from tests.model.inference.greedy import CONFIG, GREEDY, assert_greedy, draw, prompts_of
from tests.tiers import SWEEP, representatives
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of, param_shardings


@pytest.fixture(scope="module")
def params():
    return draw(CONFIG)


@pytest.mark.parametrize(
    "position",
    representatives([Rotary(), Learned(), Sinusoidal(), NoPositions(), ALiBi()], Rotary(), Learned()),
    ids=lambda p: type(p).__name__,
)
def test_cached_decoding_equals_the_full_forward_pass(position):
    config = dataclasses.replace(CONFIG, position=position)
    params = draw(config)
    # With chunks of 5 and the last token left to decoding: no chunk, a full one, one more, and a full context.
    prompts = prompts_of(1, 2, 5, 6, 7, 11, 23, 24)
    texts = generate(config, params, prompts, GREEDY, chunk=5)
    assert [len(text) for text in texts] == [25 - len(prompt) for prompt in prompts]
    assert_greedy(config, params, prompts, texts)


@pytest.mark.parametrize(
    "changes",
    [
        {"scan_layers": False},
        pytest.param(
            {
                "residual": PostNorm(),
                "mixer": GroupedQuery(
                    num_heads=4, num_kv_heads=1, qk_norm=QKNorm(), logit_softcap=5.0, qkv_bias=True, output_bias=True
                ),
            },
            marks=SWEEP,
        ),
    ],
    ids=str,
)
def test_other_blocks_decode_the_same_way(changes):
    config = dataclasses.replace(CONFIG, **changes)
    params = draw(config)
    prompts = prompts_of(3, 9)
    assert_greedy(config, params, prompts, generate(config, params, prompts, GREEDY, chunk=4))


@SWEEP
def test_padding_leaves_recurrent_states_alone():
    """Prompts of all lengths beside a long one: no chunk of their own, a part of one, several."""
    others = (Except(layers="1", mixer=GroupedQuery(num_heads=4)), Except(layers="2", mixer=GRU()))
    config = dataclasses.replace(CONFIG, num_layers=3, mixer=GatedDelta(num_heads=2, chunk=3), exceptions=others)
    params = draw(config)
    prompts = prompts_of(1, 4, 6, 11, 20)
    assert_greedy(config, params, prompts, generate(config, params, prompts, GREEDY, chunk=5))


def test_models_without_attention_decode():
    config = dataclasses.replace(CONFIG, num_layers=1, mixer=LSTM(), position=NoPositions())
    params = draw(config)
    prompts = prompts_of(3, 9)
    assert_greedy(config, params, prompts, generate(config, params, prompts, GREEDY, chunk=4))


def test_the_chunk_and_a_shorter_cache_change_nothing_but_the_room(params):
    prompts = prompts_of(2, 13)
    whole = generate(CONFIG, params, prompts, GREEDY)
    assert generate(CONFIG, params, prompts, GREEDY, chunk=1) == whole
    short = generate(CONFIG, params, prompts, GREEDY, cache_length=15)
    assert [len(text) for text in short] == [14, 3]
    assert all(text == full[: len(text)] for text, full in zip(short, whole, strict=True))


def test_bfloat16_models_decode(params):
    config = dataclasses.replace(CONFIG, precision=Precision(compute="bfloat16"))
    texts = generate(config, params, prompts_of(4, 6), Sampling(max_tokens=5))
    assert [len(text) for text in texts] == [5, 5]


# ------------------------------------------------------------------------------------------------------ compilation


def test_prefill_and_decode_are_compiled_once_for_all_lengths(monkeypatch, caplog):
    config = dataclasses.replace(CONFIG, context_length=31)  # a shape that no other test has compiled
    params = draw(config)
    traces = []

    def counted(*args, **kwargs):
        traces.append(args[2].shape)
        return stream(*args, **kwargs)

    monkeypatch.setattr(module, "stream", counted)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for lengths, temperature in (((1, 9), 0.5), ((2, 30), 0.9), ((17, 16), 1.3), ((8, 31), 2.0)):
            generate(config, params, prompts_of(*lengths), Sampling(temperature=temperature), chunk=8)
    assert sorted(traces) == [(2, 1), (2, 8)]
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(")]
    for name in ("init_decode_state", "prefill", "decode"):
        assert sum(f"jit({name})" in message for message in compiled) == 1, compiled


ACTIVATIONS = {
    "heads": ActivationAxes(),
    "the stream's positions": ActivationAxes(sequence=("tensor",)),
    "slots": ActivationAxes(key_sequence=("tensor",), heads=(), kv_heads=()),
}


@pytest.mark.parametrize("split", representatives(ACTIVATIONS, "heads"))
def test_a_mesh_gives_the_same_texts_and_compiles_once(split, params, caplog):
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    table = Sharding(parameters=ParameterAxes(vocab=()), activations=ACTIVATIONS[split])  # 61 tokens split no way
    from model.transformer import abstract_params, logical_axes

    placed = param_shardings(mesh, table, logical_axes(CONFIG), abstract_params(CONFIG))
    params_on_mesh = jax.device_put(params, placed)
    options = {"layout": layout_of(mesh, table), "chunk": 6}
    expected = generate(CONFIG, params, prompts_of(1, 8, 20), GREEDY)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert generate(CONFIG, params_on_mesh, prompts_of(1, 8, 20), GREEDY, **options) == expected
        generate(CONFIG, params_on_mesh, prompts_of(24, 3), GREEDY, **options)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(")]
    for name in ("prefill", "decode"):
        assert sum(f"jit({name})" in message for message in compiled) == 1, compiled


MIXED = dataclasses.replace(
    CONFIG,
    num_layers=4,
    mixer=GroupedQuery(num_heads=4, num_kv_heads=2, pattern=SlidingWindow(size=5), sinks=True),
    exceptions=(
        Except(layers="1", mixer=GroupedQuery(num_heads=4, pattern=Chunked(size=8))),
        Except(layers="2", mixer=Latent(num_heads=4, kv_rank=8, head_dim=4, rotary_head_dim=2, value_head_dim=4)),
        Except(layers="3", mixer=GatedDelta(num_heads=2, chunk=3)),
    ),
)


@pytest.mark.parametrize("chunk", representatives([1, 3, 24], 3))
def test_rings_latents_and_states_decode(chunk):
    """Windows shorter than the prompts, chunks longer and shorter than windows, rings that go round several times."""
    params = draw(MIXED)
    prompts = prompts_of(1, 2, 6, 13, 20)
    assert_greedy(MIXED, params, prompts, generate(MIXED, params, prompts, GREEDY, chunk=chunk))


@pytest.mark.parametrize("split", representatives([*ACTIVATIONS, "slots over context"], "heads"))
def test_caches_of_all_kinds_on_a_mesh(split):
    params = draw(MIXED)
    over_context = split == "slots over context"
    mesh = make_mesh(Mesh(data=2, context=2, tensor=2) if over_context else Mesh(data=2, fsdp=2, tensor=2))
    activations = ActivationAxes(key_sequence=("context",)) if over_context else ACTIVATIONS[split]
    table = Sharding(parameters=ParameterAxes(vocab=()), activations=activations)
    from model.transformer import abstract_params, logical_axes

    placed = param_shardings(mesh, table, logical_axes(MIXED), abstract_params(MIXED))
    options = {"layout": layout_of(mesh, table), "chunk": 6}
    prompts = prompts_of(1, 8, 20)
    texts = generate(MIXED, jax.device_put(params, placed), prompts, GREEDY, **options)
    assert texts == generate(MIXED, params, prompts, GREEDY)


# ----------------------------------------------------------------------------------------------------- independence


def test_a_row_does_not_hang_on_its_neighbours(params):
    sampling = Sampling(temperature=1.5, max_tokens=12, repetition_penalty=1.2, seed=3)
    a, b, c, d = prompts_of(3, 7, 7, 12, seed=5)
    first = generate(CONFIG, params, [a, b, c], sampling)
    second = generate(CONFIG, params, [d, c, a], sampling)
    assert first[0] == second[2]
    assert first[2] == second[1]


def test_equal_prompts_are_sampled_differently_and_draws_name_the_samples(params):
    sampling = Sampling(temperature=1.5, max_tokens=12)
    a, b = prompts_of(3, 7)
    first = generate(CONFIG, params, [a, a, b, a], sampling)
    assert len({tuple(first[i]) for i in (0, 1, 3)}) == 3
    assert generate(CONFIG, params, [a, b, b, b], sampling, sample_indices=[2, 0, 1, 2])[0] == first[3]


def test_equal_prompts_are_counted_in_one_pass():
    """A few comparisons for each of the items, where counting anew for each would take half their square."""
    compared = 0

    class Counted(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    items = [Counted(n % 10) for n in range(1000)]
    assert occurrence_indices(items) == [n // 10 for n in range(1000)]
    assert compared <= 4 * len(items)
    inputs = initial_inputs([[1, 2], [3], [1, 2], [1, 2]], None, GREEDY.rules(), 0, CONFIG.vocab_size)
    np.testing.assert_array_equal(inputs["fold_B2"][:, 1], [0, 0, 1, 2])


def test_the_same_seed_gives_the_same_texts(params):
    sampling = Sampling(max_tokens=12, seed=7)
    assert generate(CONFIG, params, prompts_of(3, 4), sampling) == generate(CONFIG, params, prompts_of(3, 4), sampling)


BASE = Sampling(max_tokens=14, temperature=1.0, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 5},
        {"temperature": 0.0},
        {"temperature": 3.0},
        {"top_k": 2},
        {"top_p": 0.3},
        {"min_p": 0.5},
        {"repetition_penalty": 5.0},
        {"seed": 1},
    ],
    ids=str,
)
def test_every_field_of_sampling_is_live(params, change):
    prompts = prompts_of(3, 9, 6)
    base = generate(CONFIG, params, prompts, BASE)
    assert generate(CONFIG, params, prompts, dataclasses.replace(BASE, **change)) != base


def test_no_filter_is_missing_from_the_test_above():
    assert {f.name for f in dataclasses.fields(Sampling)} == {
        "max_tokens",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "seed",
    }


def test_a_strong_repetition_penalty_says_nothing_twice(params):
    sampling = Sampling(temperature=0, repetition_penalty=1e6, max_tokens=15)
    prompts = prompts_of(6, 9)
    for prompt, text in zip(prompts, generate(CONFIG, params, prompts, sampling), strict=True):
        assert len(set(text)) == len(text)
        assert not set(text) & set(prompt)


def test_the_repetition_penalty_counts_no_marks(params):
    """A prompt whose likeliest next token is its first: a mark there may come again, a word may not."""
    prompts = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (1000, 6))
    logits = jax.jit(lambda ids: forward(CONFIG, params, ids).logits_BTV[:, -1])(prompts)
    prompt = prompts[np.argmax(np.argmax(logits, axis=-1) == prompts[:, 0])].tolist()
    mark = prompt[0]
    assert generate(CONFIG, params, [prompt], Sampling(temperature=0, max_tokens=1)) == [[mark]]
    strong = Sampling(temperature=0, repetition_penalty=1e6, max_tokens=9)
    assert generate(CONFIG, params, [prompt], strong, begin=mark, end=mark) == [[mark]]
    assert generate(CONFIG, params, [prompt], strong, begin=mark)[0][0] == mark
    assert generate(CONFIG, params, [prompt], strong, end=mark) == [[mark]]
    assert mark not in generate(CONFIG, params, [prompt], strong)[0]


# ------------------------------------------------------------------------------------------------------------- ends


def test_the_end_id_ends_its_row_only(params):
    prompts = prompts_of(3, 7)
    free = generate(CONFIG, params, prompts, GREEDY)
    end = free[0][4]
    texts = generate(CONFIG, params, prompts, GREEDY, end=end)
    for text, full in zip(texts, free, strict=True):
        assert text == (full[: full.index(end) + 1] if end in full else full)
    assert texts[0][-1] == end


def test_tokens_are_told_in_order_and_true_ends_a_row(params):
    prompts = prompts_of(3, 7, 2)
    free = generate(CONFIG, params, prompts, Sampling(temperature=0, max_tokens=9))
    told = []

    def on_token(row, token):
        told.append((row, token))
        return row == 1 and sum(r == 1 for r, _ in told) == 4

    texts = generate(CONFIG, params, prompts, Sampling(temperature=0, max_tokens=9), on_token=on_token)
    assert texts == [free[0], free[1][:4], free[2]]
    assert [row for row, _ in told] == [0, 1, 2] * 4 + [0, 2] * 5
    assert [token for row, token in told if row == 2] == free[2]


def test_added_rows_change_nothing(params):
    prompts = prompts_of(3, 7, 2)
    assert generate(CONFIG, params, prompts, GREEDY, row_multiple=4) == generate(CONFIG, params, prompts, GREEDY)


def test_no_prompt_gives_no_text(params):
    assert generate(CONFIG, params, [], GREEDY) == []


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], []], "prompt 2 has no tokens"),
        ([[1] * 25], "prompt 1 has 25 tokens, more than the context of 24"),
        ([[61]], "prompt 1 has ids from 61 to 61; this model knows 0 to 60"),
        ([[-1, 3]], "ids from -1 to 3"),
    ],
)
def test_bad_prompts_are_refused(params, prompts, message):
    with pytest.raises(UserError, match=message):
        generate(CONFIG, params, prompts, GREEDY)
