"""The whole model against decoders in plain NumPy, and against itself run in other ways."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import MLP, Gated
from model.norms import LayerNorm, RMSNorm
from model.parameters.precision import Precision
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.rotary import Rotary
from model.residual import PostNorm, PreNorm
from model.stack import empty_caches
from model.transformer import abstract_params, forward, init, logical_axes, logits, stream
from model.vocabulary.embedding import Tied, Untied
from tests.tiers import SWEEP, representatives

# ----------------------------------------------------------------------------------------- two decoders in NumPy

SIZES = {"vocab_size": 17, "context_length": 16, "num_layers": 2, "width": 16}
GPT2 = ModelConfig(
    **SIZES,
    mixer=GroupedQuery(num_heads=4, qkv_bias=True, output_bias=True),
    ffn=MLP(width=24, activation="gelu", bias=True),
    position=Learned(),
    norm=LayerNorm(epsilon=1e-5),
    unembedding=Tied(),
)
LLAMA = ModelConfig(
    **SIZES,
    mixer=GroupedQuery(
        num_heads=6, num_kv_heads=2, head_dim=4, qk_norm=QKNorm(norm=RMSNorm(epsilon=1e-5)), logit_softcap=1.5
    ),
    ffn=Gated(width=20, activation="silu"),
    position=Rotary(theta=50.0),
    norm=RMSNorm(epsilon=1e-6),
    unembedding=Untied(),
    final_logit_softcap=2.5,
)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def gpt2(p, tokens):
    """Logits (T, V) of one sequence; p is the tree of parameters, in float64."""

    def norm(x, w):
        return np.stack([(v - v.mean()) / math.sqrt(v.var() + 1e-5) * w["scale"] + w["bias"] for v in x])

    gelu = np.vectorize(lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))))
    x = np.stack([p["embedding"]["table"][token] + p["position"]["table"][t] for t, token in enumerate(tokens)])
    for layer in range(2):
        w = jax.tree.map(lambda a, layer=layer: a[layer], p["blocks"])
        a, f = w["mixer"], w["ffn"]
        h, out = norm(x, w["residual"]["mixer_norm"]), np.zeros_like(x)
        for head in range(4):
            q = h @ a["query"][:, head] + a["query_bias"][head]
            k = h @ a["key"][:, head] + a["key_bias"][head]
            v = h @ a["value"][:, head] + a["value_bias"][head]
            for t in range(len(tokens)):
                weights = softmax(np.array([q[t] @ k[s] / 2 for s in range(t + 1)]))  # 2 is the root of head width 4
                out[t] += sum(weights[s] * v[s] for s in range(t + 1)) @ a["output"][head]
        x = x + out + a["output_bias"]
        h = norm(x, w["residual"]["ffn_norm"])
        x = x + gelu(h @ f["up"] + f["up_bias"]) @ f["down"] + f["down_bias"]
    return norm(x, p["final_norm"]) @ p["embedding"]["table"].T


def llama(p, tokens):
    """Logits (T, V) of one sequence; p is the tree of parameters, in float64."""

    def norm(x, w, epsilon=1e-6):
        return np.stack([v / math.sqrt((v * v).mean() + epsilon) * w["scale"] for v in x])

    def turn(x):
        out = np.zeros_like(x)
        for t, v in enumerate(x):
            for i in range(2):  # head width 4: dimension i turns with i + 2
                angle = t * 50.0 ** (-2 * i / 4)
                z = complex(v[i], v[i + 2]) * complex(math.cos(angle), math.sin(angle))
                out[t, i], out[t, i + 2] = z.real, z.imag
        return out

    x = p["embedding"]["table"][np.asarray(tokens)]
    for layer in range(2):
        w = jax.tree.map(lambda a, layer=layer: a[layer], p["blocks"])
        a, f = w["mixer"], w["ffn"]
        h, out = norm(x, w["residual"]["mixer_norm"]), np.zeros_like(x)
        for head in range(6):
            shared = head // 3
            q = turn(norm(h @ a["query"][:, head], a["query_norm"], 1e-5))
            k = turn(norm(h @ a["key"][:, shared], a["key_norm"], 1e-5))
            v = h @ a["value"][:, shared]
            for t in range(len(tokens)):
                scores = np.array([q[t] @ k[s] / 2 for s in range(t + 1)])
                weights = softmax(1.5 * np.tanh(scores / 1.5))
                out[t] += sum(weights[s] * v[s] for s in range(t + 1)) @ a["output"][head]
        x = x + out
        h = norm(x, w["residual"]["ffn_norm"])
        gate = h @ f["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ f["up"])) @ f["down"]
    logits = norm(x, p["final_norm"]) @ p["embedding"]["output"]
    assert np.abs(logits).max() > 2.5, "the cap should have something to cap"
    return 2.5 * np.tanh(logits / 2.5)


@pytest.mark.parametrize(("config", "by_hand"), [(GPT2, gpt2), (LLAMA, llama)], ids=["gpt2", "llama"])
def test_against_numpy(config, by_hand, drawn, run, tokens):
    params = drawn(config)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    scores = run(config, params, tokens)[0]
    assert scores.shape == (2, 12, 17)
    for row in range(2):
        np.testing.assert_allclose(scores[row], by_hand(exact, tokens[row]), rtol=1e-5, atol=2e-5)


def test_logits_of_some_tokens_are_those_of_all(small, drawn, run, tokens):
    """The stream alone makes none: no array of the vocabulary, and the taps, the cache and the rest are there."""
    for unembedding in (Tied(), Untied(bias=True)):
        config = small(unembedding=unembedding, final_logit_softcap=5.0)
        params = drawn(config)
        output = stream(config, params, tokens, taps=["final_norm"])
        assert output.stream_BTD.shape == (2, 12, config.width)
        np.testing.assert_array_equal(output.taps["final_norm"], output.stream_BTD)
        last = logits(config, params, output.stream_BTD[:, -1:])
        np.testing.assert_allclose(last, run(config, params, tokens)[0][:, -1:], rtol=1e-5, atol=1e-6)
    program = jax.make_jaxpr(lambda p: stream(config, p, tokens).stream_BTD)(params)
    assert not [x for x in program.jaxpr.eqns if x.outvars[0].aval.shape[-1:] == (config.vocab_size,)]


# ------------------------------------------------------------------------------------------------------ causality


@pytest.mark.parametrize("placement", [PreNorm(), PostNorm()], ids=repr)
@pytest.mark.parametrize(
    "position",
    representatives([NoPositions(), Learned(), Sinusoidal(), Rotary(), ALiBi()], Learned(), Rotary(), ALiBi()),
    ids=repr,
)
def test_causality_by_gradient(small, drawn, position, placement):
    """Logits at t change with the embedding at s exactly where s is not after t."""
    config = small(position=position, residual=placement, unembedding=Untied(), num_layers=1)
    tokens = np.arange(5, dtype=np.int32)[None]  # each row of the table is the embedding of one place
    towards = np.random.default_rng(0).normal(size=17)
    params = drawn(config)

    def scores(table):
        moved = {**params, "embedding": {**params["embedding"], "table": table}}
        return forward(config, moved, tokens).logits_BTV[0] @ towards

    slopes = jax.jit(jax.jacrev(scores))(params["embedding"]["table"])[:, :5]
    size = np.abs(slopes).max(-1)
    np.testing.assert_array_equal(size != 0, np.tril(np.ones((5, 5), bool)))
    assert size[np.tril_indices(5)].min() > 1e-4


def test_documents_packed_together_equal_documents_alone(small, drawn, run, tokens):
    """Segment ids and positions keep them apart, for positions that turn, that are added, that bias scores."""
    lengths = [5, 4, 3]
    segment_ids = np.repeat([1, 2, 0], lengths)[None].astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths])[None].astype(np.int32)
    for position in (Rotary(), Learned(), ALiBi()):
        config = small(position=position)
        params = drawn(config)
        packed = run(config, params, tokens[:1], segment_ids_BT=segment_ids, positions_BT=positions)[0]
        apart = [run(config, params, tokens[:1, at : at + n])[0] for at, n in ((0, 5), (5, 4))]
        np.testing.assert_allclose(packed[:, :9], np.concatenate(apart, axis=1), rtol=1e-4, atol=1e-5)
        together = run(config, params, tokens[:1])[0]
        assert np.abs(packed[:, 5:9] - together[:, 5:9]).max() > 0.1
        np.testing.assert_allclose(packed[:, :5], together[:, :5], rtol=1e-4, atol=1e-5)


def test_segment_ids_alone_hide_other_documents_and_leave_positions(small, drawn, run, tokens):
    config = small(position=Learned())
    params = drawn(config)
    segment_ids = np.repeat([1, 2], 6)[None].astype(np.int32)
    got = run(config, params, tokens[:1], segment_ids_BT=segment_ids)[0]
    later = np.arange(6, 12, dtype=np.int32)[None]
    alone = run(config, params, tokens[:1, 6:], positions_BT=later)[0]
    np.testing.assert_allclose(got[:, 6:], alone, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------- the same, run in other ways


def loss_and_gradient(config, params, tokens):
    def loss(params):
        scores = forward(config, params, tokens).logits_BTV
        return jnp.mean(jax.nn.logsumexp(scores, axis=-1) - scores[..., 3])

    return jax.jit(jax.value_and_grad(loss))


@pytest.fixture(scope="module")
def plain(small, drawn, tokens):
    config = small()
    params = drawn(config)
    return params, loss_and_gradient(config, params, tokens)(params)


@pytest.mark.parametrize(
    "changes",
    [
        {"scan_layers": False},
        pytest.param({"remat": "dots"}, marks=SWEEP),
        pytest.param({"remat": "full"}, marks=SWEEP),
        {"remat": "full", "scan_layers": False},
    ],
    ids=repr,
)
def test_scan_and_remat_leave_loss_and_gradients_alone(small, tokens, plain, changes):
    params, (loss, gradient) = plain
    config = small(**changes)
    other_loss, other_gradient = loss_and_gradient(config, params, tokens)(params)
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), other_gradient, gradient)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-5


@pytest.mark.parametrize(
    ("scan", "compute"), representatives([(True, "float32"), (False, "float32"), (True, "bfloat16")], (True, "float32"))
)
def test_remat_computes_again_what_it_does_not_keep(small, tokens, scan, compute):
    """Matrix products in the compiled gradient: "full" repeats those of weights, "dots" only those of attention."""

    def products(remat):
        precision = Precision(compute=compute)
        config = small(scan_layers=scan, remat=remat, num_layers=2 if scan else 1, precision=precision)
        params = abstract_params(config)
        loss = lambda params: forward(config, params, tokens).logits_BTV.sum()  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(params).compile().as_text().count(" dot(")

    none, dots, full = products("none"), products("dots"), products("full")
    assert none < dots < full


def test_activations_are_placed_by_the_names_of_their_axes(small, drawn, tokens, recording):
    config = small()
    jax.eval_shape(lambda: forward(config, drawn(config), tokens, layout=recording).logits_BTV)
    placed = [axes for axes, _ in recording.placed]
    assert placed[:3] == [
        ("batch", "vocab_sequence"),
        ("batch", "vocab_sequence", "embed"),
        ("batch", "sequence", "embed"),
    ]
    assert placed[-1] == ("batch", "vocab_sequence", "vocab")
    assert ("batch", "query_sequence", "heads", "head_dim") in placed


# ---------------------------------------------------------------------------------------------------- parameters


def test_abstract_params_and_axes_are_the_tree_of_init(small):
    config = small(position=Learned(), norm=LayerNorm(), unembedding=Untied(bias=True))
    shapes = abstract_params(config)
    made = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    axes = logical_axes(config)
    is_axes = lambda x: isinstance(x, tuple)  # noqa: E731
    assert jax.tree.structure(shapes) == jax.tree.structure(axes, is_leaf=is_axes)
    jax.tree.map(lambda shape, names: np.testing.assert_equal(len(shape.shape), len(names)), shapes, axes)
    assert {names[0] for names in jax.tree.leaves(axes["blocks"], is_leaf=is_axes)} == {"layer"}
    assert axes["blocks"]["mixer"]["query"] == ("layer", "embed", "heads", "head_dim")
    assert axes["embedding"] == {
        "table": ("vocab", "embed"),
        "output": ("embed", "vocab"),
        "output_bias": ("vocab",),
    }
    assert axes["position"]["table"] == ("position", "embed")
    assert axes["final_norm"] == {"scale": ("embed",), "bias": ("embed",)}


def test_post_norm_has_no_last_norm(small):
    assert "final_norm" in abstract_params(small())
    assert "final_norm" not in abstract_params(small(residual=PostNorm()))


# -------------------------------------------------------------------------------------------------------- errors


def test_a_sequence_longer_than_the_context_is_refused(small, drawn):
    config = small()
    with pytest.raises(UserError, match="a sequence of 17 tokens is longer than context_length=16"):
        forward(config, drawn(config), np.zeros((1, 17), np.int32))


def test_segment_ids_with_a_cache_are_refused(small, drawn, tokens):
    config = small()
    empty = empty_caches(config, 2, 14)
    with pytest.raises(UserError, match="segment_ids_BT and a cache exclude each other"):
        forward(config, drawn(config), tokens, cache=empty, segment_ids_BT=np.ones_like(tokens))
