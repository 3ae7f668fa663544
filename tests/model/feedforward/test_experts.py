import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import UserError
from model.feedforward.balance import BalanceLoss, LoadBias
from model.feedforward.dispatch import Capacity
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.feedforward.routing import Groups, SigmoidRouter, SoftmaxRouter
from model.layers import Except
from model.norms import LayerNorm, RMSNorm
from model.options.tree import check, find_warnings
from model.parameters.precision import Precision
from model.transformer import abstract_params, forward, init
from tests.tiers import representatives

PLAIN = Experts(num_experts=6, top_k=2, expert=Gated(width=8))
VARIANTS = {
    "softmax": PLAIN,
    "biases": dataclasses.replace(PLAIN, expert=Gated(width=8, bias=True), router=SoftmaxRouter(bias=True)),
    "shared": dataclasses.replace(
        PLAIN,
        router=SigmoidRouter(scale=2.5, groups=Groups(count=3, top_k=2, score="top2_sum")),
        shared=Shared(ffn=Gated(width=12), gate=True),
        load_bias=LoadBias(),
    ),
    "on the way in": dataclasses.replace(
        PLAIN,
        top_k=1,
        apply_weights_to="input",
        expert=MLP(width=8, activation="relu", bias=True),
        router=SigmoidRouter(renormalize=False),
        shared=Shared(ffn=MLP(width=12, activation="relu")),
    ),
    "norms of its branches": dataclasses.replace(
        PLAIN,
        router=SoftmaxRouter(bias=True, norm=RMSNorm(), logit_scale=0.5, expert_scale=True),
        shared=Shared(ffn=Gated(width=12), gate=True),
        branch_norms=RMSNorm(),
    ),
    "norms without a shared expert, weights on the way in": dataclasses.replace(
        PLAIN,
        apply_weights_to="input",
        router=SigmoidRouter(norm=RMSNorm(scale="none"), logit_scale=2.0, expert_scale=True),
        branch_norms=RMSNorm(scale="none"),
    ),
    "one expert of each token, at full weight": dataclasses.replace(PLAIN, top_k=1),
    "one expert, by sigmoid": dataclasses.replace(PLAIN, top_k=1, router=SigmoidRouter(scale=1.5)),
    "all experts": dataclasses.replace(PLAIN, num_experts=3, top_k=3, load_bias=LoadBias()),
    "a single expert": dataclasses.replace(PLAIN, num_experts=1, top_k=1, router=SoftmaxRouter(renormalize=False)),
}


def silu(x):
    return x / (1 + np.exp(-x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ffn_by_hand(option, p, x):
    """Computes an MLP or a gated layer for one token."""
    up = x @ p["up"] + p.get("up_bias", 0.0)
    if isinstance(option, Gated):
        up = silu(x @ p["gate"] + p.get("gate_bias", 0.0)) * up
    else:
        up = np.maximum(up, 0)
    return up @ p["down"] + p.get("down_bias", 0.0)


def norm_by_hand(kind, p, name, x):
    """Computes an RMSNorm of one vector; x itself where the option has none."""
    scale = p.get(name, {}).get("scale", 1.0)
    return x if kind is None else x / np.sqrt((x * x).mean() + 1e-6) * scale


def experts_by_hand(option, p, x):
    """Computes one token by the equations of model/feedforward/experts.py, in float64."""
    logits = norm_by_hand(option.router.norm, p, "router_norm", x) @ p["router"] + p.get("router_bias", 0.0)
    logits = logits * option.router.logit_scale
    soft = isinstance(option.router, SoftmaxRouter)
    scores = np.exp(logits) / np.exp(logits).sum() if soft else sigmoid(logits)
    choice = scores + p.get("load_bias", 0.0)
    if option.router.groups:
        groups = choice.reshape(option.router.groups.count, -1)
        worth = np.sort(groups, axis=1)[:, -2:].sum(axis=1)
        groups[np.argsort(-worth)[option.router.groups.top_k :]] = -np.inf
        choice = groups.ravel()
    chosen = np.argsort(-choice)[: option.top_k]
    weights = scores[chosen] / (scores[chosen].sum() if option.router.renormalize else 1) * option.router.scale
    weights = weights * p.get("expert_scale", np.ones(option.num_experts))[chosen]
    y, read = np.zeros_like(x), norm_by_hand(option.branch_norms, p, "input_norm", x)
    for expert, weight in zip(chosen, weights, strict=True):
        own = {n: p[n][expert] for n in ("gate", "up", "down", "gate_bias", "up_bias", "down_bias") if n in p}
        input_scale, output_scale = (weight, 1) if option.apply_weights_to == "input" else (1, weight)
        y += output_scale * ffn_by_hand(option.expert, own, input_scale * read)
    y = norm_by_hand(option.branch_norms, p, "output_norm", y)
    if option.shared:
        gate = sigmoid(x @ p["shared_gate"]) if option.shared.gate else 1
        own = ffn_by_hand(option.shared.ffn, p["shared"], norm_by_hand(option.branch_norms, p, "shared_input_norm", x))
        y += gate * norm_by_hand(option.branch_norms, p, "shared_output_norm", own)
    return y


@pytest.mark.parametrize("name", representatives(VARIANTS, "softmax", "biases", "shared", "norms of its branches"))
def test_a_loop_over_tokens_and_experts(name, small, drawn, run, tokens):
    option = VARIANTS[name]
    for dispatch in (option.dispatch, Capacity(factor=6.0)):
        config = small(ffn=dataclasses.replace(option, dispatch=dispatch))
        params = drawn(config)
        taps = ("mixer_output", "embedding", "ffn_output", "block_output")
        kept = {n: np.asarray(x, np.float64) for n, x in run(config, params, tokens, taps=taps)[2].items()}
        blocks = jax.tree.map(lambda x: np.asarray(x, np.float64), params["blocks"])
        before = kept["embedding"]
        for layer in range(2):
            p = jax.tree.map(lambda x, layer=layer: x[layer], blocks)
            stream = before + kept["mixer_output"][layer]
            read = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-6) * p["residual"]["ffn_norm"]["scale"]
            expected = np.apply_along_axis(lambda x, p=p: experts_by_hand(option, p["ffn"], x), -1, read)
            np.testing.assert_allclose(kept["ffn_output"][layer], expected, rtol=1e-4, atol=1e-4)
            assert np.abs(expected).max() > 0.3
            before = kept["block_output"][layer]


def test_a_dropped_token_passes_by(small, drawn, run, tokens):
    """With one slot for each expert and sequence, and one expert for each token, most tokens are dropped."""
    option = dataclasses.replace(PLAIN, top_k=1, router=SoftmaxRouter(renormalize=False), dispatch=Capacity(factor=0.1))
    config = small(ffn=option)
    kept = run(config, drawn(config), tokens, taps=("ffn_output", "experts_chosen"))[2]
    for layer, row in np.ndindex(2, 2):
        chosen = np.asarray(kept["experts_chosen"])[layer, row, :, 0]
        first = [list(chosen).index(e) for e in np.unique(chosen)]
        silent = ~np.asarray(kept["ffn_output"][layer, row]).any(axis=-1)
        np.testing.assert_array_equal(silent, ~np.isin(np.arange(12), first))


@pytest.mark.parametrize("dispatch", [PLAIN.dispatch, Capacity(factor=0.5)], ids=["dropless", "capacity"])
def test_no_token_feels_a_later_one(dispatch, small, drawn, run, tokens):
    config = small(ffn=dataclasses.replace(PLAIN, dispatch=dispatch))
    params = drawn(config)
    other = tokens.copy()
    other[:, 7:] = (other[:, 7:] + 5) % 17
    one, two = (np.asarray(run(config, params, t)[0]) for t in (tokens, other))
    np.testing.assert_allclose(one[:, :7], two[:, :7], rtol=1e-5, atol=1e-5)
    assert np.abs(one[:, 7:] - two[:, 7:]).max() > 0.1


MIXED = {
    "num_layers": 5,
    "ffn": dataclasses.replace(PLAIN, balance_loss=BalanceLoss(coefficient=0.1), router_z_loss=0.1),
    "exceptions": (Except(layers=":1", ffn=Gated(width=24)), Except(layers="2::2", ffn=PLAIN)),
}


def losses_and_gradient(config, params, tokens):
    towards = np.random.default_rng(0).normal(size=(2, 12, 17)).astype(np.float32)

    def value(params):
        output = forward(config, params, tokens, weights_BT=jnp.ones((2, 12)))
        return (output.logits_BTV * towards).sum() + sum(output.losses.values()), (output.losses, output.measurements)

    return jax.jit(jax.value_and_grad(value, has_aux=True))(params)


@pytest.fixture(scope="module")
def written_out(small, drawn, tokens):
    config = small(**MIXED, scan_layers=False)
    return losses_and_gradient(config, drawn(config), tokens)


@pytest.mark.parametrize("remat", representatives(["none", "full"], "full"))
def test_scanned_and_written_out_are_one_function(remat, small, drawn, tokens, written_out):
    """The first layer is dense; two kinds of experts alternate after it."""
    config = small(**MIXED, remat=remat)
    (got, collected), grads = losses_and_gradient(config, drawn(config), tokens)
    (expected, same), expected_grads = written_out
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, expected_grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), collected, same)
    assert set(collected[0]) == {"balance_loss", "router_z_loss"}
    assert {name: found["load"].shape for name, found in collected[1].items()} == {"1": (2, 6), "2": (2, 6)}


def test_routing_is_float32_whatever_the_rest_is(small, tokens):
    precision = Precision(parameters="bfloat16", compute="bfloat16", reductions="bfloat16")
    config = small(ffn=VARIANTS["shared"], precision=precision)
    assert {x.dtype.name for x in jax.tree.leaves(abstract_params(config))} == {"bfloat16", "float32"}
    assert abstract_params(config)["blocks"]["ffn"]["load_bias"].dtype == jnp.float32
    names = ["router_logits", "expert_weights", "ffn_output"]
    taps = jax.eval_shape(lambda params: forward(config, params, tokens, taps=names).taps, abstract_params(config))
    assert {name: x.dtype.name for name, x in taps.items()} == {
        "router_logits": "float32",
        "expert_weights": "float32",
        "ffn_output": "bfloat16",
    }


def test_routers_are_not_rounded(small, drawn, run, tokens):
    """A change of a router that bfloat16 would round away changes the scores of a model that computes in bfloat16."""
    config = small(ffn=PLAIN, num_layers=1, precision=Precision(compute="bfloat16"))
    params = drawn(config)
    ffn = params["blocks"]["ffn"] | {"router": params["blocks"]["ffn"]["router"] * (1 + 2**-12)}
    other = params | {"blocks": params["blocks"] | {"ffn": ffn}}
    one, two = (np.asarray(run(config, p, tokens, taps=["router_logits"])[2]["router_logits"]) for p in (params, other))
    np.testing.assert_allclose(two, one * (1 + 2**-12), rtol=1e-5, atol=1e-5)
    assert np.abs(two - one).max() > 1e-4


def test_an_expert_starts_as_a_feed_forward_layer_does(small):
    config = small(width=64, ffn=dataclasses.replace(PLAIN, num_experts=8, expert=Gated(width=64)))
    ffn = init(config, jax.random.key(0))["blocks"]["ffn"]
    for name, std in {"router": 0.02, "gate": 0.02, "up": 0.02, "down": 0.02 / 2}.items():
        assert float(jnp.std(ffn[name])) == pytest.approx(std, rel=0.05)


def test_what_is_pointless_to_train_is_a_warning_and_no_error(small):
    single = dataclasses.replace(PLAIN, top_k=1)
    config = small(ffn=single, exceptions=(Except(layers="1", ffn=dataclasses.replace(single, top_k=2)),))
    check(config, "model")
    (line,) = find_warnings(config, "model")
    assert line.startswith("model.ffn.router.renormalize: with top_k=1 each weight is 1 whatever its score")
    everything = dataclasses.replace(PLAIN, top_k=6, balance_loss=BalanceLoss(coefficient=0.1), load_bias=LoadBias())
    assert find_warnings(small(ffn=everything)) == [
        "ffn.balance_loss: has no effect: every token uses all 6 experts",
        "ffn.load_bias: has no effect: every token uses all 6 experts",
    ]
    assert not find_warnings(small(ffn=PLAIN))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 0}, "num_experts: must be at least 1, got 0"),
        ({"top_k": 0}, "top_k: must be at least 1 and at most num_experts=6, got 0"),
        ({"top_k": 7}, "top_k: must be at least 1 and at most num_experts=6, got 7"),
        ({"router": SoftmaxRouter(scale=0.0)}, "router.scale: must be above 0"),
        ({"router": SigmoidRouter(logit_scale=-1.0)}, "router.logit_scale: must be above 0, got -1.0"),
        ({"branch_norms": LayerNorm(epsilon=0.0)}, "branch_norms.epsilon: must be above 0"),
        ({"router": SoftmaxRouter(groups=Groups(count=1, top_k=1))}, "router.groups.count: must be at least 2"),
        (
            {"router": SoftmaxRouter(groups=Groups(count=3, top_k=3))},
            "router.groups.top_k: must be at least 1 and below",
        ),
        ({"router": SoftmaxRouter(groups=Groups(count=4, top_k=2))}, "router.groups.count: 4 groups do not divide"),
        ({"router": SoftmaxRouter(groups=Groups(count=6, top_k=2))}, "router.groups.count: 6 groups hold one expert"),
        (
            {"top_k": 3, "router": SoftmaxRouter(groups=Groups(count=3, top_k=1))},
            "router.groups.top_k: 1 groups of 2 experts have fewer than a token's 3",
        ),
        ({"dispatch": Capacity(factor=0.0)}, "dispatch.factor: must be above 0"),
        ({"router_z_loss": -1.0}, "router_z_loss: must be 0 or more"),
        ({"load_bias": LoadBias(rate=-1.0)}, "load_bias.rate: must be 0 or more"),
        ({"expert": Gated(width=0)}, "expert.width: must be at least 1"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value),
)
def test_what_is_refused(changes, words, small):
    with pytest.raises(UserError) as caught:
        check(small(ffn=dataclasses.replace(PLAIN, **changes)), "model")
    assert f"model.ffn.{words}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
