import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layout import ONE_DEVICE
from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.maker import Normal, ParameterMaker
from model.positions.absolute import Learned
from model.residual import Multipliers
from model.transformer import stream, unembedding
from model.vocabulary import cross_entropy
from model.vocabulary.cross_entropy import nll, total_nll
from model.vocabulary.embedding import Embedding, Tied, Untied


def build(unembedding, softcap=None, multipliers=Multipliers()):
    make = ParameterMaker(jax.random.key(0), Normal(std=1.0), 1, "float32")
    embedding = Embedding(unembedding, 7, 4, softcap, multipliers, make)
    if embedding.output_bias is not None:
        embedding.output_bias[...] = jnp.linspace(-1, 1, 7)
    return embedding


X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def test_embed_looks_rows_up():
    embedding = build(Tied())
    tokens = np.array([[0, 6, 3], [3, 3, 1]])
    np.testing.assert_array_equal(
        embedding.embed(tokens, "float32", ONE_DEVICE), np.asarray(embedding.table[...])[tokens]
    )


def test_multipliers():
    plain, scaled = build(Untied()), build(Untied(), softcap=0.8, multipliers=Multipliers(embedding=2.5, logits=0.25))
    tokens = np.array([[0, 6, 3], [3, 3, 1]])
    np.testing.assert_allclose(
        scaled.embed(tokens, "float32", ONE_DEVICE), 2.5 * plain.embed(tokens, "float32", ONE_DEVICE), rtol=1e-6
    )
    one, other = (embedding.unembedding("float32").logits(X, ONE_DEVICE) for embedding in (plain, scaled))
    expected = 0.8 * np.tanh(0.25 * np.asarray(one, np.float64) / 0.8)
    np.testing.assert_allclose(other, expected, rtol=1e-5, atol=1e-6)


def test_a_norm_comes_after_the_look_up_and_before_the_factor():
    make = ParameterMaker(jax.random.key(0), Normal(std=1.0), 1, "float32")
    norm = Norm(LayerNorm(epsilon=0.01), (4,), ("embed",), make, "float32")
    norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, -1.0, 0.5]), jnp.array([0.0, 1.0, 0.0, 3.0])
    embedding = Embedding(Tied(), 7, 4, None, Multipliers(embedding=2.5), make, norm)
    table, tokens = np.asarray(embedding.table[...], np.float64), np.array([[0, 6, 3]])
    for t, token in enumerate(tokens[0]):
        x = (table[token] - table[token].mean()) / np.sqrt(table[token].var() + 0.01)
        expected = 2.5 * (x * [1.0, 2.0, -1.0, 0.5] + [0.0, 1.0, 0.0, 3.0])
        np.testing.assert_allclose(embedding.embed(tokens, "float32", ONE_DEVICE)[0, t], expected, rtol=1e-5, atol=1e-6)
    logits = embedding.unembedding("float32").logits(X, ONE_DEVICE)
    np.testing.assert_allclose(logits, X @ table.T, rtol=1e-5, atol=1e-5)


def test_the_model_adds_positions_to_normalised_embeddings(small, drawn, run, tokens):
    config = small(embedding_norm=RMSNorm(), position=Learned())
    params = drawn(config)
    x = np.asarray(params["embedding"]["table"], np.float64)[tokens]
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(params["embedding"]["norm"]["scale"])
    found = run(config, params, tokens, taps=["embedding"])[2]["embedding"]
    np.testing.assert_allclose(found, x + np.asarray(params["position"]["table"])[:12], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unembedding", [Tied(), Untied(bias=True)], ids=repr)
def test_a_table_narrower_than_the_stream(unembedding):
    make = ParameterMaker(jax.random.key(0), Normal(std=1.0), 1, "float32")
    embedding = Embedding(unembedding, 7, 4, None, Multipliers(embedding=2.5), make, table_width=3)
    into, out = (np.asarray(p[...], np.float64) for p in (embedding.input_projection, embedding.output_projection))
    table, tokens = np.asarray(embedding.table[...], np.float64), np.array([[0, 6, 3]])
    assert (table.shape, into.shape, out.shape) == ((7, 3), (3, 4), (4, 3))
    found = embedding.embed(tokens, "float32", ONE_DEVICE)
    np.testing.assert_allclose(found, 2.5 * table[tokens] @ into, rtol=1e-5, atol=1e-5)
    w = table.T if unembedding == Tied() else np.asarray(embedding.output[...])
    np.testing.assert_allclose(
        embedding.unembedding("float32").logits(X, ONE_DEVICE), X @ out @ w, rtol=1e-5, atol=1e-5
    )


def test_losses_by_chunks_read_a_narrow_table(small, drawn, tokens, monkeypatch):
    """Whole logits and chunks of them give one loss and one gradient, which reaches both projections."""
    config = small(embedding_width=5)
    params, targets, weights = drawn(config), np.roll(tokens, -1, axis=1), np.ones(tokens.shape, np.float32)

    def losses(params):
        output = stream(config, params, tokens)
        arguments = output.stream_BTD, unembedding(config, params), targets
        return total_nll(*arguments, weights, ONE_DEVICE, 0.1)[1], nll(*arguments, ONE_DEVICE)[0]

    def both():
        return jax.jit(jax.value_and_grad(lambda params: losses(params), has_aux=True))(params)

    whole = both()
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", 8 * 17)
    chunked = both()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), whole, chunked)
    gradient = chunked[1]["embedding"]
    assert min(float(np.abs(gradient[name]).max()) for name in ("input_projection", "output_projection")) > 0.1


def test_parameters():
    axes = lambda p: (p.shape, p.get_metadata()["spec"].axes)  # noqa: E731
    tied, untied, biased = build(Tied()), build(Untied()), build(Untied(bias=True))
    assert axes(tied.table) == axes(untied.table) == ((7, 4), ("vocab", "embed"))
    assert tied.output is tied.output_bias is untied.output_bias is None
    assert axes(untied.output) == ((4, 7), ("embed", "vocab"))
    assert axes(biased.output_bias) == ((7,), ("vocab",))
