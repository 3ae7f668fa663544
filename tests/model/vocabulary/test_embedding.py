import jax
import jax.numpy as jnp
import numpy as np

from model.layout import ONE_DEVICE
from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.maker import Normal, ParameterMaker
from model.positions.absolute import Learned
from model.residual import Multipliers
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


def test_parameters():
    axes = lambda p: (p.shape, p.get_metadata()["spec"].axes)  # noqa: E731
    tied, untied, biased = build(Tied()), build(Untied()), build(Untied(bias=True))
    assert axes(tied.table) == axes(untied.table) == ((7, 4), ("vocab", "embed"))
    assert tied.output is tied.output_bias is untied.output_bias is None
    assert axes(untied.output) == ((4, 7), ("embed", "vocab"))
    assert axes(biased.output_bias) == ((7,), ("vocab",))
