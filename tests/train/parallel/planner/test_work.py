import dataclasses

import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import SlidingWindow
from model.config import ModelConfig
from model.cost import count_parameters, forward_flops
from model.families.sizes import published
from model.feedforward.dispatch import Capacity
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.layers import Except
from model.positions.absolute import NoPositions
from model.recompute import SaveOnly
from model.recurrent.delta import GatedDelta
from model.recurrent.lstm import LSTM
from model.vocabulary.embedding import Untied
from model.vocabulary.multi_token import MultiToken
from model.vocabulary.per_layer import PerLayerEmbedding
from train.parallel.planner.work import KEPT, kept_by, work_of

LENGTH = 64
SMALL = ModelConfig(
    vocab_size=96,
    context_length=LENGTH,
    num_layers=4,
    width=32,
    mixer=GroupedQuery(num_heads=4, num_kv_heads=2),
    ffn=Gated(width=48),
)
EXPERTS = Experts(num_experts=8, top_k=2, expert=Gated(width=16), shared=Shared(ffn=Gated(width=24)))
MODELS = {
    "grouped query": SMALL,
    "untied": dataclasses.replace(SMALL, unembedding=Untied(), ffn=MLP(width=48)),
    "window": dataclasses.replace(
        SMALL, exceptions=(Except(layers="::2", mixer=GroupedQuery(num_heads=4, pattern=SlidingWindow(size=9))),)
    ),
    "latent": dataclasses.replace(
        SMALL,
        mixer=Latent(num_heads=4, kv_rank=8, query_rank=6, head_dim=8, rotary_head_dim=4, value_head_dim=10),
    ),
    "experts": dataclasses.replace(SMALL, ffn=EXPERTS, exceptions=(Except(layers="0", ffn=Gated(width=48)),)),
    "capacity": dataclasses.replace(SMALL, ffn=dataclasses.replace(EXPERTS, dispatch=Capacity(factor=1.5))),
    "multi token": dataclasses.replace(SMALL, multi_token=MultiToken(depth=2)),
    "recurrent": dataclasses.replace(SMALL, mixer=LSTM(num_heads=4), position=NoPositions()),
    "delta": dataclasses.replace(SMALL, mixer=GatedDelta(num_heads=4), position=NoPositions()),
    "per-layer vectors": dataclasses.replace(SMALL, per_layer_embedding=PerLayerEmbedding(width=8)),
    "narrow table": dataclasses.replace(SMALL, embedding_width=8),
}


@pytest.mark.parametrize("name", MODELS)
def test_operations_are_those_of_the_exact_count(name):
    config = MODELS[name]
    work = work_of(config, LENGTH)
    expected = forward_flops(config, LENGTH)
    if config.multi_token is not None:  # whose modules run in training alone
        block = work.layers[-1].flops * LENGTH
        assert work.forward_flops * LENGTH == pytest.approx(expected + 2 * (block + work.logits.flops * LENGTH))
    else:
        assert work.forward_flops * LENGTH == pytest.approx(expected)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_exact_count(name):
    config, work = MODELS[name], work_of(MODELS[name], LENGTH)
    counted = count_parameters(config)
    if config.multi_token is None:
        assert work.parameters == counted.total
        assert sum(layer.repeats * layer.expert_parameters for layer in work.layers) * 3 / 4 == counted.inactive
    if config.per_layer_embedding is None:  # whose projection the exact count has among the blocks
        assert work.outer_parameters == counted.total - counted.blocks - counted.multi_token


def test_llama_2_7b_by_hand():
    work = work_of(published("llama-2-7b"), 4096)
    assert work.parameters == 6_738_415_616
    (layer,) = work.layers
    assert (layer.repeats, layer.parameters, layer.key_width) == (32, 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096, 8192)
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    attention = 32 * 4 * 4096 * (4096 + 1) / 2  # two products of 2 x 4,096 operations a pair
    assert work.forward_flops == 2 * matrices + attention
    assert layer.attention.head_width == 128


def test_attention_of_windows_counts_what_is_visible():
    work = work_of(MODELS["window"], LENGTH)
    windowed, whole = (layer.attention for layer in work.layers)
    assert (windowed.causal, whole.causal) == (False, True)
    assert windowed.pairs == SlidingWindow(size=9).num_visible_pairs(LENGTH) / LENGTH
    assert whole.pairs == (LENGTH + 1) / 2


def test_slots_of_a_capacity_are_work_and_no_model_operations():
    dropless, capacity = work_of(MODELS["experts"], LENGTH), work_of(MODELS["capacity"], LENGTH)
    routed = {w: [p for p in w.layers[-1].products if p.routed] for w in (dropless, capacity)}
    assert all((p.rows, p.slots, p.ragged) == (2, 2, True) for p in routed[dropless])
    assert all((p.rows, p.slots, p.ragged) == (2, 3, False) for p in routed[capacity])
    assert all(p.copies == 8 for p in routed[capacity])


def test_every_product_has_a_name():
    for config in MODELS.values():
        for layer in work_of(config, LENGTH).layers:
            assert {product.keeps for product in layer.products} <= {*KEPT, "router", "other"}
    names = {product.keeps for product in work_of(MODELS["latent"], LENGTH).layers[0].products}
    assert {"latent", "query", "value", "mixer_output"} <= names


def test_what_rematerialisation_keeps():
    assert kept_by("full") == frozenset()
    assert kept_by("none") == frozenset(KEPT) | {"between"}
    assert kept_by("dots") == frozenset(KEPT) - {"attention"}
    assert kept_by(SaveOnly(taps=("query", "mixer_heads"))) == {"query", "attention"}


def test_a_tied_table_is_counted_once():
    untied = work_of(dataclasses.replace(SMALL, unembedding=Untied()), LENGTH)
    assert untied.outer_parameters - work_of(SMALL, LENGTH).outer_parameters == 32 * 96
