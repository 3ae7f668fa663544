import dataclasses
import itertools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.attention.patterns import Everything, SlidingWindow
from model.config import ModelConfig
from model.cost import count_parameters, forward_flops, training_flops, training_flops_per_token
from model.feedforward.balance import LoadBias
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.feedforward.routing import SigmoidRouter
from model.kernels.selection import Kernels
from model.layers import Except
from model.norms import LayerNorm, RMSNorm
from model.parameters.specs import is_trained, merge, partition
from model.positions.absolute import Learned, NoPositions, Sinusoidal
from model.positions.alibi import ALiBi
from model.positions.relative import RelativeBias
from model.positions.rotary import Rotary
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace
from model.residual import HyperConnections, Parallel, PostNorm, PreNorm, Reordered, Sandwich
from model.stack import empty_caches
from model.transformer import abstract_params, forward, specs
from model.vocabulary.embedding import Tied, Untied
from model.vocabulary.multi_token import MultiToken
from model.vocabulary.per_layer import PerLayerEmbedding
from tests.tiers import SWEEP, representatives
from tests.traced_flops import matmul_flops

NORM = QKNorm(norm=LayerNorm())
GRID = {
    "position": [NoPositions(), Learned(), Learned(offset=2), Sinusoidal(), Rotary(), ALiBi(), RelativeBias()],
    "norm": [LayerNorm(), LayerNorm(bias=False), LayerNorm(scale=False), RMSNorm(), RMSNorm(scale="none")],
    "embedding_norm": [None, LayerNorm(), LayerNorm(bias=False), RMSNorm(), RMSNorm(scale="none")],
    "embedding_width": [None, 5],
    "layer_scale": [None, 0.1],
    "stream_scale": [None, 1.0],
    "per_layer_embedding": [None, PerLayerEmbedding(width=5)],
    "residual": [
        PreNorm(),
        PostNorm(),
        Sandwich(),
        Reordered(),
        Parallel(),
        Sandwich(ffn_input_norm=False),
        Parallel(shared_norm=False),
        HyperConnections(streams=3),
        HyperConnections(streams=2, dynamic=None),
    ],
    **{"token_types": [None, 3], "input_norm": [None, LayerNorm()]},
    "unembedding": [Tied(), Tied(bias=True), Untied(), Untied(bias=True), Untied(unit_norm=True)],
    "mixer": [
        GroupedQuery(num_heads=4),
        GroupedQuery(num_heads=4, qkv_bias=True, output_bias=True),
        GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=6, qk_norm=QKNorm()),
        GroupedQuery(num_heads=4, num_kv_heads=1, qkv_bias=True, output_bias=True, logit_softcap=5.0, qk_norm=NORM),
        Latent(num_heads=3, kv_rank=5, query_rank=7, head_dim=4, rotary_head_dim=2, value_head_dim=6),
        Latent(num_heads=2, kv_rank=3, head_dim=2, rotary_head_dim=4, value_head_dim=3, norm=LayerNorm()),
        GroupedQuery(num_heads=4, num_kv_heads=2, sinks=True, output_gate="channel", qk_norm=QKNorm(over="projection")),
        GroupedQuery(
            num_heads=4,
            num_kv_heads=2,
            output_gate="head",
            gate_bias=True,
            qk_norm=QKNorm(norm=LayerNorm(), over="each_head"),
        ),
        GroupedQuery(num_heads=2, head_dim=12, qk_norm=QKNorm(norm=LayerNorm(bias=False))),
        GroupedQuery(num_heads=4, num_kv_heads=2, qkv_bias=True, value_norm=RMSNorm(), values_from_keys=True),
    ],
    "ffn": [
        MLP(width=20),
        MLP(width=20, bias=True),
        Gated(width=12),
        Gated(width=12, bias=True),
        Experts(num_experts=4, top_k=2, expert=Gated(width=6)),
        Experts(
            num_experts=4,
            top_k=3,
            expert=MLP(width=6, bias=True),
            router=SigmoidRouter(bias=True, norm=RMSNorm(), expert_scale=True),
            shared=Shared(ffn=Gated(width=10, bias=True), gate=True),
            load_bias=LoadBias(),
            branch_norms=LayerNorm(),
        ),
    ],
    "num_layers": [1, 3],
    "multi_token": [None, MultiToken(), MultiToken(depth=3)],
}
SIZES = {"vocab_size": 17, "context_length": 10, "width": 8}


def grid():
    """Yields configs with every value of every field three times, and random values in the other fields.

    Vectors of layers give way to the two mechanisms that exclude them, or these to the vectors whose turn it is.
    """
    chance = random.Random(0)
    for name, values in GRID.items():
        for value in values:
            for _ in range(3):
                fields = {n: chance.choice(v) for n, v in GRID.items()} | {name: value}
                if name == "per_layer_embedding" and value is not None:
                    fields |= {"multi_token": None, "residual": chance.choice([PreNorm(), Sandwich()])}
                elif fields["multi_token"] is not None or not fields["residual"].one_vector:
                    fields["per_layer_embedding"] = None
                yield ModelConfig(**SIZES, **fields)


def test_the_grid_meets_every_pair_of_a_norm_and_a_placement():
    configs = list(grid())
    pairs = set(itertools.product((LayerNorm, RMSNorm), GRID["residual"]))
    assert {(type(c.norm), c.residual) for c in configs} == pairs


@pytest.mark.parametrize("part", representatives(range(4), 0))
def test_parameters_equal_those_of_the_tree(part):
    for config in list(grid())[part::4]:
        tree = abstract_params(config)
        size = lambda branch: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(branch))  # noqa: E731
        count = count_parameters(config)
        table = sum(size(tree["embedding"].get(name, {})) for name in ("table", "norm", "input_projection"))
        vectors = tree.get("per_layer", {"table": {}})
        assert count.total == size(tree), config
        table_and_more = table + sum(size(tree.get(name, {})) for name in ("position", "token_types", "input_norm"))
        assert count.embedding == table_and_more + size(vectors["table"]), config
        assert count.blocks == size(tree["blocks"]) + size(vectors) - size(vectors["table"]), config
        assert count.multi_token == size(tree.get("multi_token", {})), config
        assert count.final_norm == size(tree.get("final_norm", {})), config
        assert count.unembedding == size(tree["embedding"]) - table, config
        assert count.without_embedding == count.total - count.embedding


def test_layers_that_differ_are_counted_each(small):
    wide, few = Gated(width=40, bias=True), GroupedQuery(num_heads=4, num_kv_heads=1, pattern=SlidingWindow(size=3))
    config = small(num_layers=5, exceptions=(Except(layers="::2", ffn=wide), Except(layers="3:", mixer=few)))
    assert count_parameters(config).total == sum(x.size for x in jax.tree.leaves(abstract_params(config)))
    alone = [small(num_layers=1, mixer=layer.mixer, ffn=layer.ffn) for layer in config.layers]
    logits = 2 * 12 * 16 * 17
    assert forward_flops(config, 12) - logits == sum(forward_flops(one, 12) - logits for one in alone)
    unseen = sum(max(0, t + 1 - 3) for t in range(12))
    everything = dataclasses.replace(few, pattern=Everything())
    assert forward_flops(small(mixer=everything), 12) - forward_flops(small(mixer=few), 12) == (
        2 * 2 * 2 * 16 * unseen  # two layers, two products, a multiplication and an addition, four heads of four
    )


def test_a_sublayer_that_is_not_there_costs_nothing(small):
    both, logits = small(num_layers=1), 2 * 12 * 16 * 17
    mixer, ffn = small(num_layers=1, ffn=None), small(num_layers=1, mixer=None, position=NoPositions())
    assert forward_flops(mixer, 12) + forward_flops(ffn, 12) == forward_flops(both, 12) + logits
    assert count_parameters(mixer).blocks + count_parameters(ffn).blocks == count_parameters(both).blocks


def test_flops_of_latent_attention(small):
    option = Latent(num_heads=3, kv_rank=5, query_rank=7, head_dim=4, rotary_head_dim=2, value_head_dim=6)
    config = small(mixer=option, num_layers=1, scan_layers=False)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_params(config))
    traced = matmul_flops(
        jax.make_jaxpr(lambda t: forward(config, params, t).logits_BTV)(jnp.zeros((1, 12), int)).jaxpr
    )
    hidden = 12 * 11 // 2  # pairs that the mask throws away after they were computed
    assert traced == forward_flops(config, 12) + 2 * 3 * (4 + 2 + 6) * hidden


def test_a_kernel_leaves_out_what_a_window_hides(small, drawn, run):
    """Blocks of 64 queries against up to 127 keys each, and the logits are those of all keys behind the mask."""
    window = GroupedQuery(num_heads=4, num_kv_heads=2, pattern=SlidingWindow(size=64))
    config = small(context_length=256, num_layers=1, scan_layers=False, mixer=window)
    params, tokens = drawn(config), jnp.arange(256)[None] % 17
    # With given positions, index order says nothing about them: any earlier key may be within the window.
    everywhere = {"positions_BT": jnp.arange(256)[None]}

    def traced(**options):
        return matmul_flops(jax.make_jaxpr(lambda p: forward(config, p, tokens, **options).logits_BTV)(params).jaxpr)

    skipped = (64 * (64 + 128 + 192 + 256)) - 64 * (64 + 3 * 127)
    assert traced(**everywhere) - traced() == 2 * 2 * 16 * skipped
    some, all_keys = (run(config, params, tokens, **options)[0] for options in ({}, everywhere))
    np.testing.assert_allclose(some, all_keys, rtol=1e-4, atol=1e-5)
    packed = everywhere | {"segment_ids_BT": jnp.ones((1, 256), int)}
    assert traced(**packed) == traced()


MIXERS = [
    LinearAttention(num_heads=4),
    LinearAttention(num_heads=3, head_dim=5),
    GatedDelta(num_heads=4),
    GatedDelta(num_heads=4, num_key_heads=2, head_dim=3, value_head_dim=5, convolution=3, output_norm=LayerNorm()),
    GatedDelta(num_heads=2, decay=False, convolution=None, output_norm=None, output_gate=False),
    StateSpace(num_heads=4, state_dim=5),
    StateSpace(num_heads=4, num_groups=2, head_dim=3, state_dim=6, convolution=None, output_norm=None),
    StateSpace(num_heads=4, state_dim=5, bias=True, convolution_bias=False),
    LSTM(),
    LSTM(num_heads=2, head_dim=5, forget_bias=None),
    GRU(),
    GRU(num_heads=2, head_dim=5, reset="before"),
]


@pytest.mark.parametrize("mixer", MIXERS, ids=repr)
def test_parameters_and_flops_of_recurrent_mixers(small, mixer):
    """One token, with a state: the products that are traced, less those of the token with itself in its chunk of one."""
    config = small(mixer=mixer, position=NoPositions(), num_layers=1)
    params = abstract_params(config)
    assert count_parameters(config).total == sum(x.size for x in jax.tree.leaves(params))
    empty = jax.eval_shape(lambda: empty_caches(config, 1, 1))
    at = jnp.zeros((1, 1), int)
    step = lambda params, cache: forward(config, params, at, positions_BT=at, cache=cache).logits_BTV  # noqa: E731
    traced = matmul_flops(jax.make_jaxpr(step)(params, empty).jaxpr, scans=True)
    n, h = mixer.num_heads, mixer.head_width(16)
    if isinstance(mixer, LinearAttention):
        # Traced: a score, its value, a reading of the memory and what is written, all with one more channel.
        # Counted: a value written, a value read and the sum of weights; the 1 of a weight is no factor.
        traced -= 2 * n * (h + h + 1) + 2 * n * h
    if isinstance(mixer, StateSpace):
        state, groups = mixer.state_dim, mixer.num_groups
        traced -= 2 * n * (state + h)  # key with query, and that with its value
        traced += 2 * (mixer.convolution or 0) * (n * h + 2 * groups * state)  # written as sums of products
    if isinstance(mixer, GatedDelta):
        p, k = mixer.value_width(16), mixer.key_heads
        traced -= 2 * n * (2 * h + p)  # key with key, query with key, and that with its value
        traced -= 2 * n * (h + p)  # the solution of a system of one equation
        traced += 2 * (mixer.convolution or 0) * (2 * k * h + n * p)  # written as sums of products
    assert traced == forward_flops(config, 1)
    assert forward_flops(config, 12) == 12 * forward_flops(config, 1)


HAND = ModelConfig(
    vocab_size=100,
    context_length=32,
    num_layers=2,
    width=8,
    mixer=GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=3, qkv_bias=True, output_bias=True, qk_norm=QKNorm()),
    ffn=Gated(width=10, bias=True),
    position=Learned(),
    norm=LayerNorm(),
    unembedding=Untied(bias=True),
    kernels=Kernels(experts=("ragged_dot",)),  # one operation, where loops over tiles would be counted once
)


def test_parameters_by_hand():
    count = count_parameters(HAND)
    assert count.embedding == 100 * 8 + 32 * 8 == 1056
    attention = 8 * 12 + 8 * 6 + 8 * 6 + 12 * 8  # query to 4 heads of 3, key and value to 2 heads of 3, back from 12
    attention += 12 + 6 + 6 + 8  # their biases
    attention += 3 + 3  # a scale for queries, a scale for keys
    assert attention == 288 + 32 + 6 == 326
    ffn = 8 * 10 + 8 * 10 + 10 * 8  # gate, up, down
    ffn += 10 + 10 + 8
    assert ffn == 240 + 28 == 268
    norms = 2 * (8 + 8)  # two of them, scale and bias
    assert count.blocks == 2 * (326 + 268 + 32) == 1252 == 2 * (attention + ffn + norms)
    assert count.final_norm == 16
    assert count.unembedding == 8 * 100 + 100 == 900
    assert count.total == 1056 + 1252 + 16 + 900 == 3224
    assert count.without_embedding == 3224 - 1056 == 2168


def test_flops_by_hand():
    # Multiplications with their additions, of the matrix products, for 6 tokens.
    attention_weights, ffn_weights, logits_weights = 288, 240, 800  # as above, without biases
    pairs = 1 + 2 + 3 + 4 + 5 + 6
    assert pairs == 21
    scores = 4 * 3 * pairs  # 4 heads, 3 multiplications for each pair of a query and a key that it sees
    values = 4 * 3 * pairs
    products = 2 * (6 * (attention_weights + ffn_weights) + scores + values) + 6 * logits_weights
    assert products == 2 * (6 * 528 + 252 + 252) + 4800 == 12144
    assert forward_flops(HAND, 6) == 2 * products == 24288
    assert training_flops(HAND, 6) == 3 * 24288 == 72864
    assert training_flops_per_token(HAND, 6) == 72864 / 6 == 12144.0


def frozen_by_role(config, *roles):
    """The specs of a model's parameters, with those of some roles frozen."""
    return jax.tree.map(lambda spec: dataclasses.replace(spec, frozen=spec.role in roles), specs(config))


def test_a_frozen_matrix_has_no_gradient_by_hand():
    query_and_key, gate, length = 8 * 12 + 8 * 6, 8 * 10, 6
    frozen = frozen_by_role(HAND, "projection", "embedding", "position", "scale")  # look-ups and norms are not counted
    assert training_flops(HAND, length) - training_flops(HAND, length, frozen) == (
        2 * length * 2 * (query_and_key + gate)  # two layers, a multiplication and an addition
    )
    assert training_flops(HAND, length, frozen_by_role(HAND)) == training_flops(HAND, length)
    assert training_flops_per_token(HAND, length, frozen) == training_flops(HAND, length, frozen) / length


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        pytest.param({}, ("projection", "unembedding"), marks=SWEEP),
        pytest.param({"unembedding": Tied()}, ("embedding", "residual"), marks=SWEEP),
        pytest.param({"ffn": MLP(width=20), "exceptions": (Except(layers="0", ffn=None),)}, ("value",), marks=SWEEP),
        (
            {"ffn": Experts(num_experts=4, top_k=2, expert=Gated(width=6), shared=Shared(ffn=MLP(width=5), gate=True))},
            ("value", "projection", "router"),
        ),
        pytest.param({"multi_token": MultiToken(depth=2)}, ("projection", "unembedding"), marks=SWEEP),
        (
            {"multi_token": MultiToken(depth=2), "embedding_width": 5, "unembedding": Tied()},
            ("projection",),
        ),
    ],
    ids=["untied", "tied", "layers that differ", "experts", "multi-token", "narrow table"],
)
def test_gradients_of_frozen_matrices_are_no_products_of_the_traced_model(changes, roles):
    """The trained position table makes every layer compute the gradient of its input."""
    config = dataclasses.replace(HAND, scan_layers=False, **changes)
    length, batch = 6, 3
    tokens, weights = jnp.zeros((batch, length), int), jnp.ones((batch, length))

    def loss(trained, rest):
        output = forward(config, merge(trained, rest), tokens, targets_BT=tokens, weights_BT=weights)
        return output.logits_BTV.sum() + sum(output.losses.values())

    def traced(marked):
        parts = partition(abstract_params(config), marked, is_trained)
        program = jax.make_jaxpr(jax.grad(loss))(*parts).jaxpr
        return matmul_flops(partial_eval.dce_jaxpr(program, [True] * len(program.outvars))[0])  # as compilers do

    plain, marked = frozen_by_role(config), frozen_by_role(config, *roles)
    saved = training_flops(config, length) - training_flops(config, length, marked)
    assert saved > 0
    assert traced(plain) - traced(marked) == batch * saved


def test_a_token_uses_some_of_the_experts():
    expert, shared = Gated(width=10, bias=True), Shared(ffn=MLP(width=7), gate=True)
    ffn = Experts(num_experts=6, top_k=2, expert=expert, router=SigmoidRouter(bias=True), shared=shared)
    config = dataclasses.replace(HAND, ffn=ffn, exceptions=(Except(layers="0", ffn=expert),))
    count, dense = count_parameters(config), count_parameters(HAND)
    router, gate, of_all = 8 * 6 + 6, 8, 2 * 8 * 7
    assert count.total == dense.total + 5 * 268 + router + gate + of_all
    assert count.active == dense.total + 1 * 268 + router + gate + of_all == count.total - 4 * 268
    assert dense.active == dense.total
    assert forward_flops(config, 6) == forward_flops(HAND, 6) + 2 * 6 * (1 * 240 + 8 * 6 + 8 + 2 * 8 * 7)


def test_modules_that_predict_tokens_further_on_are_counted_in_training():
    plain = dataclasses.replace(HAND, scan_layers=False)
    config = dataclasses.replace(plain, multi_token=MultiToken(depth=2))
    assert forward_flops(config, 6) == forward_flops(plain, 6)
    # Multiplications: a projection from 16 to 8, a block and logits as above.
    module = 6 * 16 * 8 + 6 * (288 + 240) + 252 + 252 + 6 * 800
    assert training_flops(config, 6) - training_flops(plain, 6) == 3 * 2 * (2 * module)
    tokens = jnp.zeros((1, 6), int)

    def traced(config):
        def objective(params):
            output = forward(config, params, tokens, targets_BT=tokens, weights_BT=jnp.ones((1, 6)))
            return output.logits_BTV.sum() + sum(output.losses.values())

        return matmul_flops(jax.make_jaxpr(objective)(abstract_params(config)).jaxpr)

    hidden = 2 * 4 * 3 * (36 - 21)  # in each module, pairs that the mask throws away after they were computed
    assert traced(config) - traced(plain) == 2 * 2 * (module + hidden)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ffn": Experts(num_experts=4, top_k=2, expert=Gated(width=6), shared=Shared(ffn=MLP(width=5), gate=True))},
        {"unembedding": Tied(), "residual": PostNorm()},
        {"unembedding": Tied(), "residual": PostNorm(), "embedding_width": 5},
        {"ffn": MLP(width=20), "position": Rotary(), "mixer": GroupedQuery(num_heads=4)},
    ],
    ids=["by hand", "experts", "tied", "narrow table", "mlp"],
)
def test_flops_equal_the_matrix_products_of_the_traced_model(changes):
    config = dataclasses.replace(HAND, scan_layers=False, **changes)
    length, batch = 6, 3
    params = abstract_params(config)
    tokens = jax.ShapeDtypeStruct((batch, length), "int32")
    loss = lambda params, tokens: forward(config, params, tokens).logits_BTV.sum()  # noqa: E731
    # The program computes all T^2 pairs and masks the future; the convention counts only visible pairs.
    hidden = length**2 - length * (length + 1) // 2
    unseen = 2 * config.num_layers * 2 * config.mixer.num_heads * config.mixer.head_width(config.width) * hidden
    traced = matmul_flops(jax.make_jaxpr(loss)(params, tokens).jaxpr)
    assert traced == batch * (forward_flops(config, length) + unseen)
    traced = matmul_flops(jax.make_jaxpr(jax.grad(loss))(params, tokens).jaxpr)
    # Attention's backward pass recomputes its scores (model/kernels/xla/blocks.py); recomputation is not counted.
    again = config.num_layers * 2 * config.mixer.num_heads * config.mixer.head_width(config.width) * length**2
    assert traced == batch * (training_flops(config, length) + 3 * unseen + again)
