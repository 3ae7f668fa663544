"""Short documents in shared rows: there are fewer rows, and each document has the same score as alone."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import BlockSparse, Chunked, Fixed, SlidingWindow, Strided
from model.config import ModelConfig
from model.feedforward.dispatch import Capacity, Dropless
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP
from model.parameters.maker import Normal
from model.positions.absolute import Learned, NoPositions
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK, LongRoPE
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.transformer import init
from tests.tiers import representatives
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation import perplexity
from train.evaluation.documents import Document
from train.evaluation.measures import Tally
from train.evaluation.window_packing import DocumentWindow, isolates_documents, make_batch, pack_rows
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import Sharding, layout_of

T, V = 16, 31
CONFIG = ModelConfig(
    vocab_size=V,
    context_length=T,
    num_layers=2,
    width=16,
    mixer=GroupedQuery(num_heads=2),
    ffn=MLP(width=32),
    initialization=Normal(std=0.3),
)
SCALED = DynamicNTK(factor=4.0, original_length=4)
LONG = LongRoPE(short_factors=(1.0,) * 4, long_factors=(4.0,) * 4, original_length=4, factor=4.0)
MODELS = {
    "rotary": {},
    "learned": {"position": Learned()},
    "alibi": {"position": ALiBi()},
    "window": {"mixer": GroupedQuery(num_heads=2, pattern=SlidingWindow(size=3, first=1))},
    "chunked": {"mixer": GroupedQuery(num_heads=2, pattern=Chunked(size=4))},
    "strided": {"mixer": GroupedQuery(num_heads=2, pattern=Strided(stride=3))},
    "fixed": {"mixer": GroupedQuery(num_heads=2, pattern=Fixed(stride=4))},
    "blocks": {"mixer": GroupedQuery(num_heads=2, pattern=BlockSparse(block=3, last=1))},
    "recurrent": {"mixer": GRU(num_heads=2), "position": NoPositions()},
    "delta": {"mixer": GatedDelta(num_heads=2), "position": NoPositions()},
    "dropless": {"ffn": Experts(num_experts=4, top_k=2, expert=MLP(width=16), dispatch=Dropless())},
    "capacity": {"ffn": Experts(num_experts=4, top_k=2, expert=MLP(width=16), dispatch=Capacity(factor=1.0))},
    "dynamic": {"position": Rotary(scaling=SCALED)},
    "longrope": {"position": Rotary(scaling=LONG)},
}
REFUSE = ("capacity",)


def documents_of(*lengths):
    rng = np.random.default_rng(0)
    return [
        Document(f"{i}", rng.integers(0, V - 1, n).astype(np.int32), 3 * n, n, True, PrefixSize(3, 0))
        for i, n in enumerate(lengths)
    ]


def score(model, params, documents, mesh=None, **options):
    layout = layout_of(mesh or make_mesh(Mesh(), jax.devices()[:1]), Sharding())
    found = perplexity.score(model, params, documents, begin=V - 1, layout=layout, stride=T // 2, **options)
    return Tally(one.sums for one in found)


def windows_of(*lengths):
    return [DocumentWindow(i, np.full(n, i), np.full(n, i + 1), 0) for i, n in enumerate(lengths)]


# ------------------------------------------------------------------------------------------------------- the rows


def test_rows_hold_every_stretch_once_and_few_rows_are_enough():
    lengths = [5, 16, 1, 7, 8, 3, 16, 9, 2, 13]
    found = list(pack_rows(windows_of(*lengths), T, packed=True, lookahead=10**6))
    assert sorted(s.document for row in found for s in row) == list(range(10))
    assert all(sum(len(s.inputs) for s in row) <= T for row in found)
    assert len(found) == math.ceil(sum(lengths) / T)
    assert len(list(pack_rows(windows_of(*lengths), T, packed=False, lookahead=1))) == 10


def test_no_more_stretches_are_held_than_are_looked_at_together():
    taken = []

    def read():
        for document_window in windows_of(*[4] * 100):
            taken.append(document_window)
            yield document_window

    made = pack_rows(read(), T, packed=True, lookahead=2 * T)
    next(made)
    assert len(taken) == 8
    assert sum(len(row) for row in made) == 96
    assert len(taken) == 100


def test_a_batch_begins_positions_anew_and_tells_documents_apart():
    (row,) = pack_rows(windows_of(3, 2), 8, packed=True, lookahead=10**6)
    batch = make_batch([row], 2, 8)
    np.testing.assert_array_equal(batch["tokens"], [[0, 0, 0, 1, 1, 0, 0, 0], [0] * 8])
    np.testing.assert_array_equal(batch["targets"], [[1, 1, 1, 2, 2, 0, 0, 0], [0] * 8])
    np.testing.assert_array_equal(batch["segment_ids"], [[1, 1, 1, 2, 2, 0, 0, 0], [0] * 8])
    np.testing.assert_array_equal(batch["positions"], [[0, 1, 2, 0, 1, 0, 0, 0], [0] * 8])


# ------------------------------------------------------------------------------------------------------ the scores


@pytest.fixture
def counted(monkeypatch):
    """The rows of every batch that is scored, those with a document in them."""
    seen = []

    def count(some, size, length):
        seen.append((len(some), size))
        return make_batch(some, size, length)

    monkeypatch.setattr(perplexity, "make_batch", count)
    return seen


@pytest.mark.parametrize("name", representatives(MODELS, "learned", "window", "capacity"))
def test_the_score_of_a_document_is_that_of_it_alone(name, counted):
    """The reference scores each document alone, in a window of its length: no padding, neighbours or segment ids."""
    model = dataclasses.replace(CONFIG, **MODELS[name])
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(0))
    documents = documents_of(3, 9, 1, 3, 9, 3, 3, 9, 30, 4)  # few lengths, each of which is a program
    tally = score(model, params, documents, batch_size=4)
    together = sum(used for used, _ in counted)
    for document, entry in zip(documents, tally.entries, strict=True):
        window = min(T, len(document.ids))
        if name == "capacity":  # its slots are a share of the window
            window = T
        alone = perplexity.score(
            model,
            params,
            [document],
            begin=V - 1,
            layout=layout_of(make_mesh(Mesh(), jax.devices()[:1]), Sharding()),
            stride=min(window, T // 2),
            window=window,
            batch_size=1,
        )[0].sums
        assert entry.nll == pytest.approx(alone.nll, rel=2e-5), document.name
        assert (entry.tokens, entry.bytes, entry.words) == (alone.tokens, alone.bytes, alone.words)
    assert isolates_documents(model, T) == (name not in REFUSE)
    # 44 tokens in nine short documents are three rows; the long one has three windows.
    assert together == (12 if name in REFUSE else 6)


def test_latent_attention_and_the_mesh_keep_documents_apart(counted):
    model = dataclasses.replace(
        CONFIG,
        width=32,
        mixer=Latent(num_heads=2, kv_rank=8, head_dim=8, rotary_head_dim=4, value_head_dim=8),
    )
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(0))
    documents = documents_of(3, 9, 1, 6, 2, 5, 3, 11, 30, 4)
    expected = [score(model, params, [document], batch_size=1).entries[0].nll for document in documents]
    del counted[:]
    for mesh in (Mesh(fsdp=8), Mesh(data=2, fsdp=2, tensor=2)):
        found = score(model, params, documents, mesh=make_mesh(mesh)).column("nll")
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    # All rows, split eight ways and four ways: one row a device, and two.
    assert counted == [(6, 8), (6, 8)]


def test_positions_scaled_by_length_do_not_keep_documents_from_one_row():
    scaled = dataclasses.replace(CONFIG, position=Rotary(scaling=SCALED))
    assert isolates_documents(scaled, 1 << 20)
