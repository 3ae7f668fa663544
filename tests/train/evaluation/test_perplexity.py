"""The sliding window against scoring every token by itself, and a uniform model by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.layout import ONE_DEVICE
from model.parameters.maker import Normal
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK, LongRoPE
from model.transformer import abstract_params, forward, init
from model.vocabulary.cross_entropy import MAX_LOGITS
from tests.tiers import SWEEP
from tests.train.test_whole_arrays import arrays
from train.data.config import Bytes, Characters
from train.data.tokenizers.interface import BytesTokenizer, CharactersTokenizer
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation.documents import Document, from_text
from train.evaluation.measures import Tally
from train.evaluation.perplexity import default_batch_size, score
from train.evaluation.windows import windows
from train.objectives.next_token import token_nll
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, Sharding, layout_of

T, V = 8, 31
CONFIG = ModelConfig(
    vocab_size=V,
    context_length=T,
    num_layers=2,
    width=16,
    mixer=GroupedQuery(num_heads=2),
    ffn=MLP(width=32),
    initialization=Normal(std=0.3),
)
END = V - 1


@pytest.fixture(scope="module")
def params():
    return jax.jit(init, static_argnums=0)(CONFIG, jax.random.key(0))


def documents_of(*lengths):
    rng = np.random.default_rng(0)
    first = PrefixSize(3, 0)
    return [Document(f"{n}", rng.integers(0, END, n).astype(np.int32), 3 * n, n // 2, True, first) for n in lengths]


def run(params, documents, *, begin=END, stride=T, model=CONFIG, mesh=None, table=None, **options):
    layout = layout_of(mesh or make_mesh(Mesh(), jax.devices()[:1]), table or Sharding())
    scores = score(model, params, documents, begin=begin, layout=layout, stride=stride, **options)
    return Tally(one.sums for one in scores)


def naive(params, document, begin, context_of):
    """Scores each token alone, after as many as `context_of(place)` says; the first one not at all without `begin`."""
    stream = list(document.ids) if begin is None else [begin, *document.ids]
    total = 0.0
    inputs = np.zeros((32, T), np.int32)
    for i in range(1, len(stream)):
        inputs[i, : context_of(i)] = stream[i - context_of(i) : i]
    logits = np.asarray(LOGITS(params, inputs), np.float64)
    for i in range(1, len(stream)):
        row = logits[i, context_of(i) - 1]
        total += np.log(np.exp(row).sum()) - row[stream[i]]
    return total


LOGITS = jax.jit(lambda params, inputs: forward(CONFIG, params, inputs).logits_BTV)


@pytest.mark.parametrize("begin", [END, None])
def test_stride_one_scores_every_token_after_the_fullest_context(params, begin):
    documents = documents_of(2, 1, T - 1, T, T + 1, 19)
    tally = run(params, documents, begin=begin, stride=1, batch_size=3)
    if begin is None:
        documents.pop(1)  # its only token has no token before it
    expected = [naive(params, d, begin, lambda i: min(i, T)) for d in documents]
    np.testing.assert_allclose(tally.column("nll"), expected, rtol=1e-5)
    left_out = int(begin is None)
    assert [e.tokens for e in tally.entries] == [len(d.ids) - left_out for d in documents]
    assert [e.bytes for e in tally.entries] == [d.num_bytes - 3 * left_out for d in documents]


def test_a_stride_of_the_window_is_disjoint_windows(params):
    (document,) = documents_of(3 * T)
    scores = run(params, [document])
    np.testing.assert_allclose(
        scores.column("nll"), [naive(params, document, END, lambda i: (i - 1) % T + 1)], rtol=1e-5
    )


def test_any_stride_scores_as_its_windows_say(params):
    documents = documents_of(5, 29)
    context = {s: s - w.begin + 1 for w in windows(29, T, 3) for s in range(w.first_scored, w.stop)}
    scores = run(params, documents, stride=3)
    expected = [
        naive(params, documents[0], END, lambda i: i),
        naive(params, documents[1], END, lambda i: context[i - 1]),
    ]
    np.testing.assert_allclose(scores.column("nll"), expected, rtol=1e-5)


def test_a_shorter_window_sees_less(params):
    (document,) = documents_of(17)
    scores = run(params, [document], stride=1, window=4)
    np.testing.assert_allclose(scores.column("nll"), [naive(params, document, END, lambda i: min(i, 4))], rtol=1e-5)


def test_the_batch_size_and_the_mesh_change_nothing(params):
    documents = documents_of(4, 40, 1, 9)
    expected = run(params, documents, stride=2, batch_size=1).column("nll")
    np.testing.assert_allclose(run(params, documents, stride=2, batch_size=64).column("nll"), expected, rtol=1e-6)
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    np.testing.assert_allclose(
        run(params, documents, stride=2, batch_size=3, mesh=mesh).column("nll"), expected, rtol=1e-5
    )
    split = Sharding(activations=ActivationAxes(sequence=("tensor",), query_sequence=("tensor",)))
    ring = Sharding(activations=ActivationAxes(key_sequence=("context",)))
    for window, mesh, table in ((7, mesh, split), (8, make_mesh(Mesh(data=2, context=4)), ring)):
        split = run(params, documents, stride=2, window=window, batch_size=3, mesh=mesh, table=table).column("nll")
        alone = run(params, documents, stride=2, window=window).column("nll")
        np.testing.assert_allclose(split, alone, rtol=1e-5)


def test_two_programs_serve_every_document(params, monkeypatch):
    """One program for rows that documents share, and one for rows with one document."""
    import train.evaluation.perplexity as module

    traces = []

    def counted(model, params, batch, layout):
        traces.append(batch["tokens"].shape)
        return token_nll(model, params, batch, layout)

    monkeypatch.setattr(module, "token_nll", counted)
    module._compile_scoring.cache_clear()
    run(params, documents_of(1, 5, 30, 100), stride=3, batch_size=4)
    run(params, documents_of(2, 77), stride=7, batch_size=4)
    run(params, documents_of(1, 2, 3), stride=7, batch_size=4)
    assert traces == [(4, T), (4, T)]
    module._compile_scoring.cache_clear()


def test_progress_counts_every_scored_token(params):
    seen = []
    run(params, documents_of(4, 40), stride=2, batch_size=2, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 44


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride must be from 1 to the window of 8"),
        ({"stride": 9}, "got 9"),
        ({"stride": 5, "window": 4}, "window of 4 tokens, got 5"),
        ({"window": 9}, "window must be from 1 to the model's context of 8"),
    ],
)
def test_a_window_that_cannot_be_is_refused(params, options, message):
    with pytest.raises(UserError, match=message):
        run(params, documents_of(4), **options)


def test_nothing_to_score_is_refused(params):
    with pytest.raises(UserError, match="no token to score: every document is empty$"):
        run(params, documents_of(0))
    with pytest.raises(UserError, match="every document is empty or has one token, with no mark that comes before it"):
        run(params, documents_of(0, 1), begin=None)


@pytest.mark.parametrize(("length", "rows"), [(4, 64), (256, 64), (1024, 16), (3000, 5), (16384, 1), (1 << 20, 1)])
def test_a_batch_is_as_many_tokens_whatever_their_number_in_a_window(length, rows):
    assert default_batch_size(length) == rows


def test_a_large_vocabulary_takes_no_rows_from_a_batch_and_makes_no_larger_array():
    """16 windows of 1,024 tokens: their stream is the largest array of tokens, and logits come a block at a time."""
    model = dataclasses.replace(CONFIG, vocab_size=50_257, context_length=1024)
    rows = default_batch_size(1024)
    tokens = jax.ShapeDtypeStruct((rows, 1024), jnp.int32)
    program = jax.make_jaxpr(lambda params, batch: token_nll(model, params, batch, ONE_DEVICE))
    shapes = arrays(program(abstract_params(model), {"tokens": tokens, "targets": tokens}).jaxpr)
    assert rows == 16
    assert max(math.prod(shape) for shape in shapes if model.vocab_size in shape) <= MAX_LOGITS


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (Mesh(), 8 * 64),
        (Mesh(fsdp=8), 8 * 64),
        (Mesh(data=2, fsdp=2, tensor=2), 4 * 64),  # two devices share each row
    ],
)
def test_each_device_has_as_many_rows_as_one_alone(params, monkeypatch, mesh, expected):
    import train.evaluation.perplexity as module

    seen = []
    plain = module.make_batch
    monkeypatch.setattr(module, "make_batch", lambda rows, size, length: seen.append(size) or plain(rows, size, length))
    documents = documents_of(4 * expected)
    run(params, documents, window=4, stride=2, mesh=make_mesh(mesh))
    assert seen[0] == expected
    assert len(seen) == 4 * expected * 2 // 4 // expected
    del seen[:]
    run(params, documents, window=4, stride=2)
    assert seen[0] == 64


@pytest.mark.parametrize(
    "scaling",
    [
        pytest.param(DynamicNTK(factor=4.0, original_length=3), marks=SWEEP),
        LongRoPE(short_factors=(1.0,) * 4, long_factors=(2.0, 3.0, 5.0, 9.0), original_length=3, factor=4.0),
    ],
    ids=lambda scaling: type(scaling).__name__,
)
def test_a_short_document_is_scored_by_its_own_length(params, scaling):
    """On both sides of the original length, in windows of eight: as alone, in a sequence that ends with it."""
    model = dataclasses.replace(CONFIG, position=Rotary(theta=9.0, scaling=scaling))
    documents = documents_of(2, 5, 7, 8)
    tally = run(params, documents, model=model)
    for document, entry in zip(documents, tally.entries, strict=True):
        inputs = jnp.asarray([[END, *document.ids[:-1]]])
        log_p = jax.nn.log_softmax(forward(model, params, inputs).logits_BTV[0])
        alone = -sum(float(log_p[place, token]) for place, token in enumerate(document.ids))
        assert entry.nll == pytest.approx(alone, rel=1e-5)
    padded = [entry.nll for entry in run(params, documents[:1], model=CONFIG).entries]
    assert abs(padded[0] - tally.entries[0].nll) > 1e-3  # positions are live


# ------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    "tokenizer",
    [
        BytesTokenizer(Bytes()),
        BytesTokenizer(Bytes(end_of_document=False)),
        CharactersTokenizer(Characters(end_of_document=True), "abé \n"),
        CharactersTokenizer(Characters(), "abé \n"),
    ],
)
def test_a_uniform_model_by_hand(tokenizer):
    """All parameters 0 give every token 1/V: the loss is ln V, over the tokens, bytes and words that are scored."""
    size = tokenizer.vocab_size
    config = ModelConfig(
        vocab_size=size, context_length=4, num_layers=1, width=8, mixer=GroupedQuery(num_heads=2), ffn=MLP(width=8)
    )
    zeros = jax.tree.map(jnp.zeros_like, init(config, jax.random.key(0)))
    texts = ["é ab\nba é", "a", "b b"]
    documents = [from_text(tokenizer, text, text) for text in texts]
    assert all(document.restored for document in documents)
    tally = run(zeros, documents, model=config, begin=tokenizer.begin_of_document, stride=2)
    tokens, bytes_, words = sum(len(tokenizer.encode(text)) for text in texts), 11 + 1 + 3, 4 + 1 + 2  # é is two
    if tokenizer.begin_of_document is None:  # the first é, or its first byte, "a" and "b" have nothing before them
        whole = isinstance(tokenizer, CharactersTokenizer)
        tokens, bytes_, words = tokens - 3, bytes_ - (2 if whole else 1) - 1 - 1, words - (1 if whole else 0) - 1 - 1
    assert (tally.count("bytes"), tally.count("words"), tally.count("tokens")) == (bytes_, words, tokens)
    values = {name: estimate.value for name, estimate in tally.measures().items()}
    assert values["loss"] == pytest.approx(math.log(size), rel=1e-6)
    assert values["perplexity"] == pytest.approx(size, rel=1e-5)
    assert values["bits_per_byte"] == pytest.approx(tokens * math.log2(size) / bytes_, rel=1e-6)
    assert values["word_loss"] == pytest.approx(tokens * math.log(size) / words, rel=1e-6)
    assert values["word_perplexity"] == pytest.approx(math.exp(tokens * math.log(size) / words), rel=1e-5)
