import jax
import numpy as np
import pytest

from model.errors import UserError
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import Gated
from model.transformer import forward

SHAPES = {
    "embedding": (2, 12, 16),
    "query": (2, 2, 12, 4, 4),
    "key": (2, 2, 12, 2, 4),
    "value": (2, 2, 12, 2, 4),
    "attention_weights": (2, 2, 4, 12, 12),
    "score_sizes": (2, 2, 4, 2),
    "mixer_heads": (2, 2, 12, 4, 4),
    "mixer_output": (2, 2, 12, 16),
    "ffn_hidden": (2, 2, 12, 24),
    "unit_sizes": (2, 2, 24, 2),
    "ffn_output": (2, 2, 12, 16),
    "block_output": (2, 2, 12, 16),
    "stream_squares": (2, 2, 12),
    "final_norm": (2, 12, 16),
}


@pytest.fixture(scope="module")
def model(small, drawn):
    config = small()
    return config, drawn(config)


@pytest.fixture(scope="module")
def kept(model, run, tokens):
    logits, _, taps = run(*model, tokens, taps=list(SHAPES))
    return {name: np.asarray(x) for name, x in taps.items()} | {"logits": np.asarray(logits)}


def test_every_offered_tap_is_listed_here(model, tokens):
    config, params = model
    with pytest.raises(UserError, match="no tap is called 'zzz'; known: ") as caught:
        jax.eval_shape(lambda: forward(config, params, tokens, taps=["zzz"]).logits_BTV)
    assert set(str(caught.value).partition("known: ")[2].split(", ")) == set(SHAPES)


def test_shapes(kept):
    assert {name: x.shape for name, x in kept.items() if name != "logits"} == SHAPES


def test_values(model, kept, tokens):
    """Each tap is computed from the taps before it, layer by layer, for the whole model."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), model[1])
    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)  # noqa: E731

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    close(kept["embedding"], params["embedding"]["table"][tokens])
    stream = kept["embedding"]
    for layer in range(2):
        block = jax.tree.map(lambda x, layer=layer: x[layer], params["blocks"])
        attention, read = block["mixer"], norm(stream, block["residual"]["mixer_norm"]["scale"])
        close(kept["value"][layer], np.einsum("btd,dkh->btkh", read, attention["value"]))
        for name in ("query", "key"):  # turned by rotary positions: the same lengths
            straight = np.einsum("btd,dnh->btnh", read, attention[name])
            close(np.linalg.norm(kept[name][layer], axis=-1), np.linalg.norm(straight, axis=-1))
            assert np.abs(kept[name][layer] - straight).max() > 0.1
        keys, values = (np.repeat(kept[name][layer], 2, axis=2) for name in ("key", "value"))
        scores = np.einsum("btnh,bsnh->bnts", kept["query"][layer], keys) / 2
        seen = np.tril(np.ones((12, 12), bool))
        close(kept["score_sizes"][layer][..., 0], np.where(seen, scores, -np.inf).max((2, 3)))
        close(kept["score_sizes"][layer][..., 1], ((scores**2 * seen).sum(-1) / seen.sum(-1)).sum(-1))
        weights = np.exp(scores) * np.tril(np.ones((12, 12)))
        close(kept["attention_weights"][layer], weights / weights.sum(-1, keepdims=True))
        heads = np.einsum("bnts,bsnh->btnh", kept["attention_weights"][layer], values)
        close(kept["mixer_heads"][layer], heads)
        close(kept["mixer_output"][layer], np.einsum("btnh,nhd->btd", heads, attention["output"]))
        stream = stream + kept["mixer_output"][layer]
        read = norm(stream, block["residual"]["ffn_norm"]["scale"])
        gate = read @ block["ffn"]["gate"]
        close(kept["ffn_hidden"][layer], gate / (1 + np.exp(-gate)) * (read @ block["ffn"]["up"]))
        close(kept["unit_sizes"][layer][..., 0], np.abs(kept["ffn_hidden"][layer]).max(1))
        close(kept["unit_sizes"][layer][..., 1], np.square(kept["ffn_hidden"][layer]).sum(1))
        close(kept["ffn_output"][layer], kept["ffn_hidden"][layer] @ block["ffn"]["down"])
        stream = stream + kept["ffn_output"][layer]
        close(kept["block_output"][layer], stream)
        close(kept["stream_squares"][layer], np.square(stream).mean(-1))
    close(kept["final_norm"], norm(stream, params["final_norm"]["scale"]))
    close(kept["logits"], kept["final_norm"] @ params["embedding"]["table"].T)


def test_asking_leaves_the_logits_alone_and_returns_no_more(model, run, tokens, kept):
    logits, _, taps = run(*model, tokens, taps=["ffn_output"])
    assert set(taps) == {"ffn_output"}
    np.testing.assert_allclose(logits, kept["logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(*model, tokens)[0], kept["logits"], rtol=1e-5, atol=1e-6)
    assert run(*model, tokens)[2] == {}


def test_what_experts_offer(small, drawn, run, tokens):
    """Beside the taps of all models; the hidden layer is that of the shared expert."""
    config = small(ffn=Experts(num_experts=6, top_k=2, expert=Gated(width=8), shared=Shared(ffn=Gated(width=10))))
    with pytest.raises(UserError, match="no tap is called 'zzz'; known: ") as caught:
        jax.eval_shape(lambda: forward(config, drawn(config), tokens, taps=["zzz"]).logits_BTV)
    own = {"router_logits": (2, 2, 12, 6), "experts_chosen": (2, 2, 12, 2), "expert_weights": (2, 2, 12, 2)}
    assert set(str(caught.value).partition("known: ")[2].split(", ")) == set(SHAPES) | set(own)
    taps = run(config, drawn(config), tokens, taps=[*own, "ffn_hidden"])[2]
    assert {name: x.shape for name, x in taps.items()} == own | {"ffn_hidden": (2, 2, 12, 10)}
    best = np.argsort(-np.asarray(taps["router_logits"]), axis=-1)[..., :2]
    np.testing.assert_array_equal(taps["experts_chosen"], best)
    np.testing.assert_allclose(np.asarray(taps["expert_weights"]).sum(-1), 1, rtol=1e-5)


def test_unknown_name(model, tokens):
    config, params = model
    with pytest.raises(UserError, match="no tap is called 'attention_weight'; did you mean 'attention_weights'"):
        jax.eval_shape(lambda: forward(config, params, tokens, taps=["embedding", "attention_weight"]).logits_BTV)


def test_unscanned_taps_are_stacked_alike(small, drawn, run, tokens, kept):
    config = small(scan_layers=False)
    taps = run(config, drawn(config), tokens, taps=["attention_weights", "block_output"])[2]
    for name, x in taps.items():
        np.testing.assert_allclose(x, kept[name], rtol=1e-5, atol=1e-5)
