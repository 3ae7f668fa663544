import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.config import ModelConfig
from model.families.sizes import published
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.norms import LayerNorm
from model.parameters.maker import FanIn, Normal, ParameterMaker
from model.positions.absolute import Learned
from model.transformer import abstract_params, init, logical_axes
from model.vocabulary.embedding import Untied
from tests.tiers import representatives

DRAWN = {
    "embedding.table": "embedding",
    "position.table": "position",
    "blocks.mixer.query": "projection",
    "blocks.mixer.key": "projection",
    "blocks.mixer.value": "projection",
    "blocks.mixer.output": "residual",
    "blocks.ffn.gate": "projection",
    "blocks.ffn.up": "projection",
    "blocks.ffn.down": "residual",
    "embedding.output": "unembedding",
}
FAN_IN = {
    "blocks.mixer.query": 48,
    "blocks.mixer.key": 48,
    "blocks.mixer.value": 48,
    "blocks.mixer.output": 4 * 8,  # heads times head width
    "blocks.ffn.gate": 48,
    "blocks.ffn.up": 48,
    "blocks.ffn.down": 96,  # feed-forward width
    "embedding.output": 48,
}


def model(initialization, **changes):
    """Returns a model with every kind of parameter, in which no two fan-ins are equal by chance."""
    options = {
        "vocab_size": 64,
        "context_length": 64,
        "num_layers": 3,
        "width": 48,
        "mixer": GroupedQuery(
            num_heads=4, head_dim=8, qkv_bias=True, output_bias=True, qk_norm=QKNorm(norm=LayerNorm())
        ),
        "ffn": Gated(width=96, bias=True),
        "position": Learned(),
        "norm": LayerNorm(),
        "unembedding": Untied(bias=True),
        "initialization": initialization,
    }
    return ModelConfig(**options | changes)


def by_path(params):
    return {
        ".".join(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def assert_normal(values, std, truncated=False):
    """Asserts mean 0 and the given standard deviation, each within four sampling deviations, and the right tails."""
    z = values.ravel().astype(np.float64) / std
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    # The variance of a sample deviation is (kurtosis - 1) / 4n: kurtosis 3, or 2.36 when cut at two deviations.
    assert abs(z.std() - 1) < 4 * math.sqrt(((2.37 if truncated else 3) - 1) / 4 / z.size)
    if truncated:
        assert np.abs(z).max() <= 2 / 0.87962566
    else:
        assert np.abs(z).max() > 2.5


@pytest.fixture(scope="module")
def gpt2():
    return by_path(init(model(Normal(std=0.02)), jax.random.key(0)))


@pytest.fixture(scope="module")
def fan_in():
    return by_path(init(model(FanIn(embedding_std=0.5)), jax.random.key(0)))


def test_normal_follows_the_table(gpt2):
    for name, role in DRAWN.items():
        assert_normal(gpt2[name], 0.02 / math.sqrt(2 * 3) if role == "residual" else 0.02)


def test_fan_in_follows_the_table(fan_in):
    for name, role in DRAWN.items():
        if role in ("embedding", "position"):
            assert_normal(fan_in[name], 0.5)
        else:
            assert_normal(fan_in[name], 1 / math.sqrt(FAN_IN[name]), truncated=True)


@pytest.mark.parametrize("scheme", ["gpt2", "fan_in"])
def test_scales_start_at_1_and_biases_at_0(scheme, request):
    params = request.getfixturevalue(scheme)
    plain = set(params) - set(DRAWN)
    assert plain == {
        *(f"blocks.residual.{norm}.{part}" for norm in ("mixer_norm", "ffn_norm") for part in ("scale", "bias")),
        *(f"blocks.mixer.{side}_norm.{part}" for side in ("query", "key") for part in ("scale", "bias")),
        *(f"blocks.mixer.{side}_bias" for side in ("query", "key", "value", "output")),
        *(f"blocks.ffn.{side}_bias" for side in ("gate", "up", "down")),
        "embedding.output_bias",
        "final_norm.scale",
        "final_norm.bias",
    }
    for name in plain:
        np.testing.assert_array_equal(params[name], 1.0 if name.endswith("scale") else 0.0, err_msg=name)


def test_no_two_matrices_and_no_two_layers_are_alike(gpt2):
    seen = []
    for name in DRAWN:
        layers = gpt2[name] if name.startswith("blocks") else gpt2[name][None]
        seen += [layer.ravel()[:1000] for layer in layers]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            n = min(len(one), len(other))
            assert abs(np.corrcoef(one[:n], other[:n])[0, 1]) < 0.25


@pytest.mark.parametrize(
    ("initialization", "role", "std"),
    [
        (Normal(std=0.1), "embedding", 0.1),
        (Normal(std=0.1), "residual", 0.1 / math.sqrt(10)),
        (Normal(std=0.1, scale_residual=False), "residual", 0.1),
        (FanIn(), "embedding", 0.02),
        (FanIn(embedding_std=0.7), "position", 0.7),
        (FanIn(), "projection", 0.2),
        (FanIn(), "residual", 0.2),
        (FanIn(), "unembedding", 0.2),
        (FanIn(scale_residual=True), "residual", 0.2 / math.sqrt(10)),
        (FanIn(scale_residual=True), "projection", 0.2),
        (FanIn(beta=0.5), "value", 0.1),
        (FanIn(beta=0.5), "residual", 0.1),
        (FanIn(beta=0.5), "projection", 0.2),
        (Normal(std=0.1, scale_residual=False, beta=0.5), "value", 0.05),
        (Normal(std=0.1, scale_residual=False, beta=0.5), "residual", 0.05),
        (Normal(std=0.1, scale_residual=False, beta=0.5), "unembedding", 0.1),
        (FanIn(zero_residual=True), "residual", 0.0),
        (FanIn(zero_residual=True), "projection", 0.2),
    ],
    ids=repr,
)
def test_each_role_of_each_scheme(initialization, role, std):
    make = ParameterMaker(jax.random.key(0), initialization, 5, "float32")
    values = np.asarray(make.matrix(role, (25, 160), ("embed", "ffn"))[...])
    if std == 0:
        assert not values.any()
    else:
        assert_normal(
            values, std, truncated=isinstance(initialization, FanIn) and role not in ("embedding", "position")
        )


LATENT = Latent(num_heads=4, kv_rank=5, query_rank=6, head_dim=4, rotary_head_dim=2, value_head_dim=6)
EXPERTS = Experts(num_experts=4, top_k=2, expert=Gated(width=8), shared=Shared(ffn=MLP(width=8), gate=True))


@pytest.mark.parametrize("changes", [{}, {"mixer": LATENT, "ffn": EXPERTS}], ids=["grouped", "latent, experts"])
def test_deepnorms_beta_shrinks_values_outputs_and_the_feed_forward_layer(changes):
    """As in figure 2 of DeepNet; beta does not change other parameters."""
    beta = (8 * 3) ** -0.25
    plain, small = (by_path(init(model(FanIn(beta=b), **changes), jax.random.key(0))) for b in (1.0, beta))
    shrunk = {
        name.rpartition(".")[2] for name in plain if name.endswith((".value", ".value_up", ".output", ".up", ".down"))
    }
    assert shrunk >= {"output", "up", "down"}
    for name, values in plain.items():
        inside = name.startswith("blocks") and name.rpartition(".")[2] in shrunk
        np.testing.assert_allclose(small[name], values * (beta if inside else 1), rtol=1e-6, err_msg=name)


def test_parameters_carry_the_dtype_and_the_axes():
    make = ParameterMaker(jax.random.key(0), Normal(), 1, "bfloat16")
    for made in (
        make.matrix("projection", (64, 64), ("embed", "ffn")),
        make.constant("scale", 1.0, (4,), ("ffn",)),
        make.zeros((4,), ("ffn",)),
        make.zeros((4,), ("expert",), "load_bias"),
        make.from_values("mixing", jnp.eye(3), (None, None)),
    ):
        assert made.dtype == ("float32" if made.get_metadata()["spec"].role == "load_bias" else "bfloat16")
        assert len(made.get_metadata()["spec"].axes) == made.ndim


def test_the_key_decides_everything():
    def draws(seed):
        make = ParameterMaker(jax.random.key(seed), Normal(), 1, "float32")
        return [np.asarray(make.matrix("projection", (64, 64), ("embed", "ffn"))[...]) for _ in range(2)]

    one, again, other = draws(0), draws(0), draws(1)
    np.testing.assert_array_equal(one, again)
    assert (one[0] != one[1]).any()
    assert (one[0] != other[0]).any()


def test_the_same_values_however_they_are_sharded():
    """Eight devices draw their own parts of what one device draws whole."""
    square = {
        "vocab_size": 16,
        "context_length": 16,
        "width": 16,
        "ffn": Gated(width=16),
        "norm": LayerNorm(bias=False),
    }
    config = model(Normal(), mixer=GroupedQuery(num_heads=4), unembedding=Untied(), **square)
    mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    table = {"embed": "fsdp", "heads": "tensor", "kv_heads": "tensor", "ffn": "tensor", "vocab": "tensor"}
    place = lambda axes: NamedSharding(mesh, PartitionSpec(*(table.get(name) for name in axes)))  # noqa: E731
    shardings = jax.tree.map(place, logical_axes(config), is_leaf=lambda axes: isinstance(axes, tuple))
    key = jax.random.key(3)
    whole = by_path(jax.jit(lambda key: init(config, key))(key))
    parts = jax.jit(lambda key: init(config, key), out_shardings=shardings)(key)
    assert len(parts["blocks"]["mixer"]["query"].addressable_shards) == 8
    assert parts["blocks"]["mixer"]["query"].addressable_shards[0].data.shape == (3, 8, 1, 4)
    for name, values in by_path(parts).items():
        # The random bits are the same; jax 0.12's inverse error function rounds differently in loops of other shapes.
        np.testing.assert_array_max_ulp(values, whole[name], maxulp=4)


@pytest.mark.parametrize(
    "name",
    representatives(
        ["llama-2-7b", "deepseek-v3", "gemma-4-26b-a4b", "qwen3-next-80b-a3b", "granite-4.0-h-350m"],
        "deepseek-v3",
        "granite-4.0-h-350m",
    ),
)
def test_shapes_alone_are_those_of_drawn_parameters(name):
    """`abstract_params` draws nothing; `init` is traced with all its draws."""
    config = published(name)
    drawn = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract_params(config)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), drawn
    )
