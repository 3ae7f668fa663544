"""Decoding with the cache equals the whole forward pass; one program each; rows do not depend on one another."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import model.inference.generate as module
from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.attention.patterns import Chunked, SlidingWindow
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.inference.generate import generate, initial_inputs, occurrence_indices
from model.inference.sampling import Sampling
from model.layers import Except
from model.parameters.maker import Normal
from model.parameters.precision import Precision
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK, LongRoPE
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.lstm import LSTM
from model.residual import PostNorm
from model.transformer import forward, init, stream
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of, param_shardings

# A wide initialisation, so that the likeliest token wins by more than rounding.
CONFIG = ModelConfig(
    vocab_size=61,
    context_length=24,
    num_layers=2,
    width=16,
    mixer=GroupedQuery(num_heads=4, num_kv_heads=2),
    ffn=MLP(width=32),
    initialization=Normal(std=0.4, scale_residual=False),
)
GREEDY = Sampling(temperature=0, max_tokens=100)


def prompts_of(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, CONFIG.vocab_size, n).tolist() for n in lengths]


def draw(config):
    return jax.jit(init, static_argnums=0)(config, jax.random.key(0))


@pytest.fixture(scope="module")
def params():
    return draw(CONFIG)


def assert_greedy(config, params, prompts, texts):
    """Every new token is the likeliest after the tokens before it, by the forward pass without a cache."""
    ids = np.zeros((len(prompts), config.context_length), np.int32)
    for row, prompt, text in zip(ids, prompts, texts, strict=True):
        both = (prompt + text)[: config.context_length]
        row[: len(both)] = both
    likeliest = jax.jit(lambda params, ids: jnp.argmax(forward(config, params, ids).logits_BTV, axis=-1))(params, ids)
    for row, prompt, text in zip(np.asarray(likeliest), prompts, texts, strict=True):
        np.testing.assert_array_equal(text, row[len(prompt) - 1 :][: len(text)])


@pytest.mark.parametrize(
    "position", [Rotary(), Learned(), Sinusoidal(), NoPositions(), ALiBi()], ids=lambda p: type(p).__name__
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
        {
            "residual": PostNorm(),
            "mixer": GroupedQuery(
                num_heads=4, num_kv_heads=1, qk_norm=QKNorm(), logit_softcap=5.0, qkv_bias=True, output_bias=True
            ),
        },
    ],
    ids=str,
)
def test_other_blocks_decode_the_same_way(changes):
    config = dataclasses.replace(CONFIG, **changes)
    params = draw(config)
    prompts = prompts_of(3, 9)
    assert_greedy(config, params, prompts, generate(config, params, prompts, GREEDY, chunk=4))


@pytest.mark.parametrize(
    "scaling",
    [
        DynamicNTK(factor=8.0, original_length=8),
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


@pytest.mark.parametrize("chunk", [3, 24])
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
    for name in ("init_state", "prefill", "decode"):
        assert sum(f"jit({name})" in message for message in compiled) == 1, compiled


ACTIVATIONS = {
    "heads": ActivationAxes(),
    "the stream's positions": ActivationAxes(sequence=("tensor",)),
    "slots": ActivationAxes(key_sequence=("tensor",), heads=(), kv_heads=()),
}


@pytest.mark.parametrize("split", ACTIVATIONS)
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


@pytest.mark.parametrize("chunk", [1, 3, 24])
def test_rings_latents_and_states_decode(chunk):
    """Windows shorter than the prompts, chunks longer and shorter than windows, rings that go round several times."""
    params = draw(MIXED)
    prompts = prompts_of(1, 2, 6, 13, 20)
    assert_greedy(MIXED, params, prompts, generate(MIXED, params, prompts, GREEDY, chunk=chunk))


@pytest.mark.parametrize("split", ACTIVATIONS)
def test_caches_of_all_kinds_on_a_mesh(split):
    params = draw(MIXED)
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    table = Sharding(parameters=ParameterAxes(vocab=()), activations=ACTIVATIONS[split])
    from model.transformer import abstract_params, logical_axes

    placed = param_shardings(mesh, table, logical_axes(MIXED), abstract_params(MIXED))
    options = {"layout": layout_of(mesh, table), "chunk": 6}
    prompts = prompts_of(1, 8, 20)
    texts = generate(MIXED, jax.device_put(params, placed), prompts, GREEDY, **options)
    assert texts == generate(MIXED, params, prompts, GREEDY)


def test_texts_are_read_again_on_a_mesh():
    config = dataclasses.replace(CONFIG, position=Rotary(theta=9.0, scaling=LONG))
    params, mesh = draw(config), make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    layout = layout_of(mesh, Sharding(parameters=ParameterAxes(vocab=())))  # 61 tokens split no way
    prompts = prompts_of(1, 8, 20)
    assert generate(config, params, prompts, GREEDY, layout=layout, chunk=6) == generate(
        config, params, prompts, GREEDY
    )


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
