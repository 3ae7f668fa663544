"""Which tokens a model's logits depend on, by gradients; padding, documents, prefixes and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.directions import Bidirectional, Causal, PrefixLM
from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import Everything, SlidingWindow
from model.cost import forward_flops
from model.errors import UserError
from model.inference.engine.engine import Engine
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.options.tree import find_problems
from model.positions.absolute import Learned
from model.positions.alibi import ALiBi
from model.recurrent.gru import GRU
from model.stack import empty_caches
from model.transformer import abstract_params, forward
from model.vocabulary.multi_token import MultiToken
from model.vocabulary.prediction_head import PredictionHead
from tests.traced_flops import matmul_flops

TOKENS = np.random.default_rng(0).integers(0, 17, (1, 6)).astype(np.int32)


def dependence(config, params, **options):
    """A picture: row t has an x at each token that the logits of token t depend on, by a change of that token."""
    of = jax.jit(lambda tokens: forward(config, params, tokens, **options).logits_BTV)
    before, rows = of(TOKENS), [["."] * 6 for _ in range(6)]
    for s in range(6):
        changed = TOKENS.copy()
        changed[0, s] = (changed[0, s] + 1) % 17
        moved = np.abs(np.asarray(of(changed) - before)).max(axis=(0, 2)) > 0
        for t in np.flatnonzero(moved):
            rows[t][s] = "x"
    return ["".join(row) for row in rows]


ALL, EACH_HALF = ["xxxxxx"] * 6, ["xxx..."] * 3 + ["...xxx"] * 3
CAUSAL = ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxxxxx"]
HALVES = {"segment_ids_BT": np.array([[1, 1, 1, 2, 2, 2]]), "positions_BT": np.array([[0, 1, 2, 0, 1, 2]])}
PREFIX = ["xxx...", "xxx...", "xxx...", "xxxx..", "xxxxx.", "xxxxxx"]
PREFIXES = ["xx....", "xx....", "xxx...", "...x..", "...xx.", "...xxx"]
SCENES = {
    "causal": (Causal(), {}, CAUSAL),
    "bidirectional": (Bidirectional(), {}, ALL),
    "bidirectional documents": (Bidirectional(), HALVES, EACH_HALF),
    "bidirectional padding": (Bidirectional(), {"lengths_B": np.array([4])}, ["xxxx.."] * 4 + ["....xx"] * 2),
    "no prefix": (PrefixLM(), {}, CAUSAL),
    "a prefix": (PrefixLM(), {"prefix_BT": np.array([[3]])}, PREFIX),
    "prefixes": (PrefixLM(), HALVES | {"prefix_BT": np.array([[2, 2, 2, 0, 0, 0]])}, PREFIXES),
    "a whole prefix": (PrefixLM(), {"prefix_BT": np.array([[9]])}, ALL),
}


@pytest.mark.parametrize("scene", SCENES)
def test_who_sees_whom(scene, small, drawn):
    """Two layers, so that what one layer shows is what both show: each picture is closed under looking twice."""
    direction, options, picture = SCENES[scene]
    config = small(visibility=direction)
    assert dependence(config, drawn(config), **options) == picture


def test_a_window_reaches_to_both_sides(small, drawn):
    mixer = GroupedQuery(num_heads=2, pattern=SlidingWindow(size=2))
    config = small(visibility=Bidirectional(), mixer=mixer, num_layers=1)
    assert dependence(config, drawn(config)) == ["xx....", "xxx...", ".xxx..", "..xxx.", "...xxx", "....xx"]


def test_a_prefix_is_read_from_a_cache_as_in_the_whole_row(small, drawn, run):
    """Two rows with prompts of 3 and 5 tokens: their keys in one call, then the other tokens one by one."""
    config = small(visibility=PrefixLM(), scan_layers=False)
    params, lengths = drawn(config), np.array([3, 5])
    rows = np.random.default_rng(1).integers(0, 17, (2, 9)).astype(np.int32)
    whole = forward(config, params, rows, prefix_BT=lengths[:, None]).logits_BTV
    for row, length in enumerate(lengths):
        one, prefix = rows[row : row + 1], jnp.array([[length]])
        some, cache, _ = run(config, params, one[:, :length], cache=empty_caches(config, 1, 9), prefix_BT=prefix)
        found = [some]
        for t in range(length, 9):
            at = {"positions_BT": jnp.array([[t]]), "cache": cache}
            some, cache, _ = run(config, params, one[:, t : t + 1], prefix_BT=prefix, **at)
            found.append(some)
        np.testing.assert_allclose(np.concatenate(found, axis=1)[0], whole[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", [Everything(), SlidingWindow(size=4)], ids=["everything", "window"])
def test_a_prompt_is_the_prefix_of_a_generated_text(pattern, small, drawn):
    """Greedy texts after prompts of 2 and 7 tokens in one batch: each token is that of the whole row with its prefix."""
    config = small(visibility=PrefixLM(), mixer=GroupedQuery(num_heads=4, pattern=pattern))
    params, prompts = drawn(config, scale=0.5), [TOKENS[0, :2].tolist(), [*TOKENS[0].tolist(), 3]]
    of = jax.jit(lambda row, prefix: forward(config, params, row, prefix_BT=prefix).logits_BTV[0])
    for prompt, new in zip(
        prompts, generate(config, params, prompts, Sampling(max_tokens=6, temperature=0.0)), strict=True
    ):
        row = np.zeros((1, 16), np.int32)
        row[0, : len(prompt) + 6] = prompt + new
        logits = of(row, np.array([[len(prompt)]]))
        assert np.argmax(logits[len(prompt) - 1 : len(prompt) + 5], axis=-1).tolist() == new


def test_operations_of_an_encoder(small):
    """A pair of two tokens counts in both directions; the head is counted too."""
    head = PredictionHead()
    causal, encoder = (
        small(prediction_head=head, scan_layers=False, visibility=v) for v in (Causal(), Bidirectional())
    )
    tokens, params = jnp.zeros((1, 12), int), abstract_params(encoder)
    traced = matmul_flops(jax.make_jaxpr(lambda p: forward(encoder, p, tokens).logits_BTV)(params).jaxpr)
    assert forward_flops(encoder, 12) == traced
    assert traced - forward_flops(causal, 12) == 2 * 2 * 2 * 16 * (12 * 11 // 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": ALiBi()}, "model.visibility: position=ALiBi has no numbers for keys after their query"),
        ({"mixer": GRU(), "position": Learned()}, "model.visibility: Bidirectional has no effect on mixer=GRU"),
        ({"multi_token": MultiToken()}, "model.visibility: Bidirectional shows a token what multi_token predicts"),
    ],
)
def test_mechanisms_of_order_are_refused(changes, message, small):
    assert any(message in problem for problem in find_problems(small(visibility=Bidirectional(), **changes), "model"))


def test_what_an_encoder_cannot_do(small, drawn):
    config = small(visibility=Bidirectional())
    params = drawn(config)
    with pytest.raises(UserError, match="generate: this model sees a text from both sides .*take a causal model"):
        generate(config, params, [[1, 2]], Sampling(max_tokens=2))
    with pytest.raises(UserError, match="engine: this model sees a text from both sides"):
        Engine(config, params)
    with pytest.raises(UserError, match="engine: the engine reads a prompt in parts, .*use python -m launch.generate"):
        Engine(small(visibility=PrefixLM()), params)
    with pytest.raises(UserError, match="cache: this model sees a text from both sides"):
        forward(config, params, TOKENS, cache={})
    with pytest.raises(UserError, match="prefix_BT: only a model with visibility=PrefixLM"):
        forward(config, params, TOKENS, prefix_BT=np.array([[3]]))
    with pytest.raises(UserError, match="token_types_BT: this model has no types of tokens"):
        forward(config, params, TOKENS, token_types_BT=TOKENS)
