"""The collectives of a program that is compiled for 4 x 2 devices, and their formats.

On a CPU the compiler writes a reduce-scatter as an all-reduce and a slice of it; these tests take it for one where its
result is no larger than the array that is sliced.
"""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import Everything, SlidingWindow
from model.config import ModelConfig
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.encoder.source import Source
from model.feedforward.mlp import Gated
from model.kernels import attend
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from model.kernels.xla.blocks import Blocks
from model.kernels.xla.tiles import Tiles
from model.layout import ONE_DEVICE
from model.parameters.names import flatten
from model.parameters.precision import Precision
from model.parameters.projections import project
from model.transformer import abstract_params, forward, logical_axes
from model.vocabulary.cross_entropy import cross_entropy
from tests.tiers import representatives
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of, param_shardings

TENSOR = ("tensor",)
MESH = Mesh(data=4, tensor=2)
# Megatron: the residual stream split along the sequence, heads, feed-forward width and vocabulary inside of sublayers.
MEGATRON = Sharding(activations=ActivationAxes(sequence=TENSOR))
# All positions split but those of keys; parameters whole.
SPLIT_SEQUENCE = Sharding(
    parameters=ParameterAxes(heads=(), kv_heads=(), ffn=(), vocab=()),
    activations=ActivationAxes(
        sequence=TENSOR,
        query_sequence=TENSOR,
        ffn_sequence=TENSOR,
        vocab_sequence=TENSOR,
        heads=(),
        kv_heads=(),
        ffn=(),
        vocab=(),
    ),
    balanced=False,
)
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"


def collectives(text):
    """How often each (kind, dtype, sizes) of an array occurs in a program; scalars are left out.

    Sizes are in descending order, since a compiler may transpose.
    """
    found = collections.Counter()
    for result, kind in re.findall(rf" = (.+?) ({KINDS})(?:-start)?\(", text):
        for dtype, sizes in re.findall(r"\b([a-z]+\d+)\[([\d,]+)\]", result):
            found[kind, dtype, sizes_of(*map(int, sizes.split(",")))] += 1
    return found


def loop_bodies(text):
    """The bodies and conditions of the loops of a compiled program."""
    loops = set(re.findall(r"(?:body|condition)=%?([\w.-]+)", text))
    bodies = [part for part in text.split("\n\n") if part.lstrip().split(" ")[0].lstrip("%") in loops]
    assert len(bodies) == len(loops) > 0
    return bodies


def sizes_of(*shape):
    return tuple(sorted(shape, reverse=True))


# -------------------------------------------------------------------------------------------------- one projection

B, T, D, F = 8, 16, 32, 48
LAYOUT = functools.cache(lambda: layout_of(make_mesh(MESH), SPLIT_SEQUENCE))


def projected(x, w):
    return LAYOUT().constrain(project(x, nnx.Param(w), LAYOUT()), ("batch", "sequence", "ffn"))


def test_a_product_with_positions_split_sends_nothing():
    rows = LAYOUT().placement(("batch", "sequence", None))
    x, w = jax.ShapeDtypeStruct((B, T, D), jnp.float32, sharding=rows), jax.ShapeDtypeStruct((D, F), jnp.float32)
    compiled = jax.jit(projected).lower(x, w).compile()
    assert collectives(compiled.as_text()) == {}
    assert compiled.output_shardings.shard_shape((B, T, F)) == (B // 4, T // 2, F)


def test_its_gradient_reduces_that_of_the_weight_and_sends_nothing_else():
    """Over rows, then over positions: two steps, which compilers for other platforms merge."""
    rows = LAYOUT().placement(("batch", "sequence", None))
    x, w = jax.ShapeDtypeStruct((B, T, D), jnp.float32, sharding=rows), jax.ShapeDtypeStruct((D, F), jnp.float32)
    loss = lambda x, w: jnp.sum(jnp.sin(projected(x, w)))  # noqa: E731
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, w).compile()
    assert collectives(compiled.as_text()) == {("all-reduce", "f32", sizes_of(D, F)): 2}


# -------------------------------------------------------------------------------------------------------- two layers

V, N, H, LAYERS = 64, 4, 8, 2
S, ENCODER_LAYERS = 24, 1  # of a source
# Of one device: two rows of the batch, with all positions.
STREAM, HEADS, TOKENS = sizes_of(B // 4, T, D), sizes_of(B // 4, T, N, H), sizes_of(B // 4, T)


def small(**changes):
    """Two layers, unrolled so that each collective occurs in the program as often as it runs."""
    options = {"mixer": GroupedQuery(num_heads=N), "ffn": Gated(width=F), "scan_layers": False, "num_layers": LAYERS}
    return ModelConfig(vocab_size=V, context_length=T, width=D, **(options | changes))


@functools.cache
def lowered(table, gradient, mesh=MESH, **changes):
    """The sum of the losses of a batch, or its gradient, before it is compiled."""
    config, devices = small(**changes), make_mesh(mesh)
    layout = layout_of(devices, table)
    shardings = param_shardings(devices, table, logical_axes(config), abstract_params(config))
    rows = layout.placement(("batch", "sequence"))

    def loss(params, tokens, targets, source):
        given = {} if config.encoder is None else {"source": Source(source)}
        logits_BTV = forward(config, params, tokens, layout=layout, **given).logits_BTV
        return jnp.sum(cross_entropy(logits_BTV, targets)[0])

    function = jax.grad(loss) if gradient else loss
    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
    places, out = (shardings, rows, rows, rows), shardings if gradient else None
    program = jax.jit(function, in_shardings=places, out_shardings=out)
    return program.lower(abstract_params(config), tokens, tokens, jax.ShapeDtypeStruct((B, S), jnp.int32))


@functools.cache
def sent(table, gradient, **changes):
    """Collectives of numbers; those of token ids and of positions are (B, T) integers, next to nothing."""
    found = collectives(lowered(table, gradient, **changes).compile().as_text())
    assert all(len(shape) <= 2 for _, dtype, shape in found if dtype == "s32")
    return {key: count for key, count in found.items() if key[1] != "s32"}


def test_forward_with_positions_split_gathers_keys_and_values_alone():
    assert sent(SPLIT_SEQUENCE, gradient=False) == {("all-gather", "f32", HEADS): 2 * LAYERS}


def test_backward_it_reduces_gradients_of_keys_and_values_and_of_parameters():
    """Those of parameters over rows and then over positions. Keys of all positions are kept from the forward pass."""
    parameters = {
        sizes_of(D, N, H): 4 * LAYERS,  # query, key, value, output
        sizes_of(D, F): 3 * LAYERS,  # gate, up, down
        sizes_of(D): 2 * LAYERS + 1,  # norms
        sizes_of(V, D): 2,  # of looking tokens up, and of logits
    }
    found = dict(sent(SPLIT_SEQUENCE, gradient=True))
    assert found.pop(("all-gather", "f32", HEADS)) == 2 * LAYERS
    assert found.pop(("reduce-scatter", "f32", sizes_of(B // 4, T // 2, N, H))) == 2 * LAYERS
    assert found == {("all-reduce", "f32", sizes): 2 * count for sizes, count in parameters.items()}


def test_megatron_forward_gathers_and_scatters_the_stream_at_the_borders_of_sublayers():
    """In: both sublayers of each layer, and logits. Out: both, and the looked up tokens. Softmax over the vocabulary."""
    found = dict(sent(MEGATRON, gradient=False))
    assert found.pop(("all-gather", "f32", STREAM)) == 2 * LAYERS + 1
    assert sum(found.pop((kind, "f32", STREAM), 0) for kind in ("all-reduce", "reduce-scatter")) == 2 * LAYERS + 1
    assert found == {("all-reduce", "f32", TOKENS): 3}  # largest, sum, and score of the target


def test_megatron_backward_gathers_no_parameter():
    """The mirror image: each border once more. What several products share is reduced for each of them here."""
    found = dict(sent(MEGATRON, gradient=True))
    assert found.pop(("all-gather", "f32", STREAM)) == 2 * (2 * LAYERS + 1)
    into = 3 * LAYERS + 2 * LAYERS + 1  # query, key, value; up, gate; logits
    assert found.pop(("all-reduce", "f32", STREAM)) == 2 * LAYERS + 1 + into
    assert {kind for kind, _, _ in found} == {"all-reduce"}
    shards = {sizes_of(D, N // 2, H), sizes_of(D, F // 2), sizes_of(D), sizes_of(V // 2, D)}
    assert {sizes for _, _, sizes in found} == shards | {TOKENS}


# --------------------------------------------------------------------------------------------- a source and a target

ENCODER = Encoder(
    num_layers=ENCODER_LAYERS,
    context_length=S,
    mixer=GroupedQuery(num_heads=N),
    ffn=Gated(width=F),
    cross=CrossAttention(num_heads=N),
)
OF_SOURCE = sizes_of(B // 4, S, D)


@pytest.mark.sweep
def test_with_positions_split_cross_attention_gathers_the_keys_and_values_of_the_source():
    found = sent(SPLIT_SEQUENCE, gradient=False, encoder=ENCODER)
    heads = sizes_of(B // 4, S, N, H)
    assert found == {
        ("all-gather", "f32", HEADS): 2 * LAYERS,
        ("all-gather", "f32", heads): 2 * (ENCODER_LAYERS + LAYERS),
    }


def test_megatron_gathers_the_encoded_source_once_for_all_layers():
    """In: both sublayers of an encoder layer, three of a decoder layer, logits; the source for keys and values."""
    found = dict(sent(MEGATRON, gradient=False, encoder=ENCODER))
    assert found.pop(("all-gather", "f32", STREAM)) == 3 * LAYERS + 1
    assert found.pop(("all-gather", "f32", OF_SOURCE)) == 2 * ENCODER_LAYERS + 1
    reduced = lambda sizes: sum(found.pop((kind, "f32", sizes), 0) for kind in ("all-reduce", "reduce-scatter"))  # noqa: E731
    assert reduced(STREAM) == 3 * LAYERS + 1
    assert reduced(OF_SOURCE) == 2 * ENCODER_LAYERS + 1
    assert found == {("all-reduce", "f32", TOKENS): 3}


@pytest.mark.sweep
def test_with_an_encoder_the_gradients_are_those_of_one_device():
    """Over rows, shards of parameters, and heads: parameters are gathered, and no stream but that of looked up tokens."""
    options = {"encoder": ENCODER, "num_layers": 1}
    compiled = lowered(Sharding(), True, Mesh(data=2, fsdp=2, tensor=2), **options).compile()
    config, found = small(**options), collectives(compiled.as_text())
    assert {
        sizes: count for (kind, dtype, sizes), count in found.items() if (kind, dtype) == ("all-gather", "f32")
    } == {
        sizes_of(D, N // 2, H): 3 * 4,  # the encoder's attention, the decoder's, and that to the source
        sizes_of(D, F // 2): 2 * 3,
        sizes_of(D): 2 * 7,  # norms, forward and backward
        sizes_of(V // 2, D): 2,  # logits
        sizes_of(V, D // 2): 1,  # tokens are looked up in the columns that a device has
        STREAM: 1,
        OF_SOURCE: 1,
    }
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(0.3 * rng.standard_normal(p.shape), p.dtype), abstract_params(config))
    tokens, targets, source = (rng.integers(0, V, (B, length)).astype(np.int32) for length in (T, T, S))

    def loss(params):
        logits_BTV = forward(config, params, tokens, source=Source(source)).logits_BTV
        return jnp.sum(cross_entropy(logits_BTV, targets)[0])

    expected = jax.jit(jax.grad(loss))(params)
    got = compiled(jax.device_put(params, compiled.input_shardings[0][0]), tokens, targets, source)
    for name, value in flatten(expected).items():
        scale = np.abs(value).max()
        assert scale > 1e-2, name
        np.testing.assert_allclose(flatten(got)[name], value, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


# -------------------------------------------------------------------------------------------------- long sequences

LONG = 256  # positions, in four blocks or tiles where they are on one device


@pytest.mark.parametrize("kernel", [Blocks(), Tiles(queries=64, keys=64)], ids=["blocks", "tiles"])
@pytest.mark.parametrize(
    "pattern", representatives([Everything(), SlidingWindow(size=40)], SlidingWindow(size=40)), ids=["causal", "window"]
)
def test_queries_that_are_split_stay_where_they_are(kernel, pattern):
    """Keys and values are gathered, and their gradients reduced and scattered. Neither queries nor outputs are sent."""
    queries = ("batch", "query_sequence", "heads", "head_dim")
    seen, rng = causal(Coordinates(LONG)).with_pattern(pattern), np.random.default_rng(0)

    def attended(q, k, v, layout):
        y = attend(q, k, v, seen, Scoring(1.0), layout=layout, kernels=(kernel,))
        return layout.constrain(y, queries)

    def gradient(layout):
        return jax.jit(jax.grad(lambda *x: jnp.sum(jnp.sin(attended(*x, layout))), argnums=(0, 1, 2)))

    x = jax.ShapeDtypeStruct((B, LONG, N, H), jnp.float32, sharding=LAYOUT().placement(queries))
    whole = sizes_of(B // 4, LONG, N, H)
    forward = jax.jit(functools.partial(attended, layout=LAYOUT())).lower(x, x, x).compile()
    assert collectives(forward.as_text()) == {("all-gather", "f32", whole): 2}
    both = gradient(LAYOUT()).lower(x, x, x).compile()
    part = sizes_of(B // 4, LONG // 2, N, H)
    assert collectives(both.as_text()) == {("all-gather", "f32", whole): 2, ("reduce-scatter", "f32", part): 2}
    given = [rng.normal(size=x.shape).astype(np.float32) for _ in range(3)]
    for got, expected in zip(both(*given), gradient(ONE_DEVICE)(*given), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


RING = Sharding(activations=ActivationAxes(key_sequence=("context",)))
CONTEXT = Mesh(data=1, context=8)


def sent_bytes(text, kind):
    """The bytes that a device sends or receives in collectives of a kind, with the trip counts of loops around them."""
    times = dict(re.findall(r"body=%?([\w.-]+).*known_trip_count\D+(\d+)", text))
    total = 0
    for part in text.split("\n\n"):
        name = part.lstrip().removeprefix("ENTRY ").split(" ")[0].lstrip("%")
        lines = "\n".join(line for line in part.split("\n") if f" {kind}" in line)
        for (_, dtype, sizes), count in collectives(lines).items():
            total += int(times.get(name, 1)) * count * int(np.prod(sizes)) * int(re.sub(r"\D", "", dtype)) // 8
    return total


@pytest.mark.parametrize(
    ("pattern", "hops"), [(Everything(), 7), (SlidingWindow(size=40), 2)], ids=["causal", "window"]
)
def test_a_ring_sends_keys_as_far_as_they_are_seen_and_gathers_nothing(pattern, hops):
    """A device has 32 of 256 tokens: 40 reach into two devices before. A causal order exchanges half of a sequence."""
    seen, layout = causal(Coordinates(LONG)).with_pattern(pattern), layout_of(make_mesh(CONTEXT), RING)
    own = jax.ShapeDtypeStruct(
        (B, LONG, N, H), jnp.float32, sharding=layout.placement(("batch", "query_sequence", "heads", "head_dim"))
    )

    def attended(*x):
        return jnp.sum(jnp.sin(attend(*x, seen, Scoring(1.0), layout=layout)))

    compiled = jax.jit(jax.grad(attended, argnums=(0, 1, 2))).lower(own, own, own).compile().as_text()
    assert {kind for kind, _, _ in collectives(compiled)} == {"collective-permute"}
    assert not re.search(rf"f32\[(\d+,)*{LONG}[,\]]", compiled)  # no array of numbers has the whole sequence
    part = B * LONG // 8 * N * H * 4
    forward = 2 * hops  # keys and values
    backward = 2 + 4 * hops + 2  # they again, one hop ahead, then their gradients with them, which go home
    exchanged = 8 if isinstance(pattern, Everything) else 0  # queries, keys, values, outputs, and gradients of these
    assert sent_bytes(compiled, "collective-permute") == part * (forward + backward + exchanged)


def test_a_step_with_a_ring_gathers_no_keys_and_no_moment():
    """Two layers over eight parts of a sequence: parameters are gathered as with FSDP, the stream and keys are not."""
    found = collectives(lowered(RING, True, CONTEXT).compile().as_text())
    gathered = {sizes for kind, dtype, sizes in found if kind == "all-gather" and dtype != "s32"}
    parameters = {sizes_of(D, N, H), sizes_of(D, F), sizes_of(D), sizes_of(V, D)}
    # The compiler looks tokens up in the parts of the table that devices have, for the whole sequence.
    assert gathered <= parameters | {sizes_of(B, T, D // 8)}
    assert sizes_of(B, T // 8, N, H) in {sizes for kind, _, sizes in found if kind == "collective-permute"}


# --------------------------------------------------------------------------------------------- format of gradients


def partitioned(program, folder):
    """The text of a program right after it was partitioned for the devices.

    Later a CPU's compiler turns bfloat16 into float32 all over, since it has no instructions for it.
    """
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)  # from a cache nothing would be written down
    try:
        program.compile({"xla_dump_to": str(folder), "xla_dump_hlo_pass_re": "spmd-partitioning"})
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    (path,) = folder.glob("*jit_loss*after_spmd-partitioning*")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("gradients", "short"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_gradients_are_reduced_in_the_format_that_the_option_names_and_parameters_gathered_in_that_of_compute(
    gradients, short, tmp_path
):
    precision = Precision(compute="bfloat16", gradients=gradients)
    found = collectives(partitioned(lowered(Sharding(), True, Mesh(data=2, fsdp=4), precision=precision), tmp_path))
    matrices = {sizes_of(D, N, H), sizes_of(D, F)}
    assert {dtype for kind, dtype, sizes in found if kind == "all-gather" and sizes in matrices} == {"bf16"}
    reduced = {(dtype, sizes) for kind, dtype, sizes in found if kind in ("all-reduce", "reduce-scatter")}
    assert {dtype for dtype, sizes in reduced if sizes in matrices} == {short}
    if gradients == "float32":  # so are those of norms and of the token table
        assert {dtype for dtype, _ in reduced} == {"f32"}
        assert {sizes_of(D), sizes_of(V, D)} <= {sizes for _, sizes in reduced}


def test_the_numbers_are_those_of_one_device():
    """Both tables, against a program without a mesh."""
    config = small()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(0.3 * rng.standard_normal(p.shape), p.dtype), abstract_params(config))
    tokens = rng.integers(0, V, (B, T)).astype(np.int32)

    def total(params, layout=None):
        given = {} if layout is None else {"layout": layout}
        return jnp.sum(jnp.sin(forward(config, params, tokens, **given).logits_BTV))

    expected, slopes = jax.jit(jax.value_and_grad(total))(params)
    for table in (MEGATRON, SPLIT_SEQUENCE):
        layout = layout_of(make_mesh(MESH), table)
        got, found = jax.jit(jax.value_and_grad(functools.partial(total, layout=layout)))(params)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, slopes)
