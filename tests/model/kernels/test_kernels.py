"""Every kernel with every request against the equation in float64; and `attend`, which chooses among kernels."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.patterns import Chunked, Fixed, SlidingWindow
from model.errors import UserError
from model.kernels import KERNELS, Choice, attend, choose, new_request
from model.kernels.gpu import tokamax
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, bidirectional, causal
from model.kernels.xla.blocks import Blocks
from model.kernels.xla.plain import Plain
from model.kernels.xla.tiles import Tiles
from model.layout import Layout
from model.positions.alibi import LinearBias
from model.positions.relative import RelativeBias
from tests.tiers import representatives

T = 150  # two blocks; with tiles of 32 queries and 48 keys, the last tiles of both are not full
SEGMENTS = np.stack([np.repeat([1, 2, 0], [70, 60, 20]), np.repeat([1, 2, 3], [20, 1, 129])])
PLACES = np.stack([np.concatenate([np.arange(n) for n in ns]) for ns in ((70, 60, 20), (20, 1, 129))])
ROW, PACKED = Coordinates(T), Coordinates(T, position=PLACES, segment_ids=SEGMENTS)
BACK = np.arange(T)[:, None] - np.arange(T)
SAME = SEGMENTS[:, :, None] == SEGMENTS[:, None, :]
IN_DOCUMENT = PLACES[:, :, None] - PLACES[:, None, :]
CACHED = np.array([[40], [3]]) + np.arange(7)  # seven queries in each row, inside a cache of 150 slots
SLOPES = np.array([0.5, 0.25, 0.125, 0.0625])


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Asked:
    """A request in the terms of the equation; a part that is None is absent.

    Attributes:
      visibility: the visibility for the kernels.
      mask: the same as an array, (B, T, S).
      distance: the distance of every query and key, (B, T, S), if scores depend on it.
    """

    visibility: object
    mask: np.ndarray
    distance: np.ndarray | None = None
    kv_heads: int = dataclasses.field(default=4, metadata=dict(static=True))
    softcap: float | None = dataclasses.field(default=None, metadata=dict(static=True))
    sinks: bool = dataclasses.field(default=False, metadata=dict(static=True))
    bias: str | None = dataclasses.field(default=None, metadata=dict(static=True))
    values: int = dataclasses.field(default=8, metadata=dict(static=True))
    dropout: float = dataclasses.field(default=0.0, metadata=dict(static=True))


def mask(condition):
    return np.broadcast_to(condition, (2, *np.shape(condition)[-2:]))


LOWER = mask(BACK >= 0)
WINDOW = SlidingWindow(size=40)
KEEP = causal(ROW).with_pattern(SlidingWindow(size=20, first=3))
REQUESTS = {
    "causal": Asked(causal(ROW), LOWER),
    "grouped": Asked(causal(ROW), LOWER, kv_heads=2),
    "multi-query": Asked(causal(ROW), LOWER, kv_heads=1),
    "packed": Asked(causal(PACKED), LOWER & SAME),
    "window": Asked(causal(ROW).with_pattern(WINDOW), LOWER & mask(BACK < 40)),
    "first keys": Asked(KEEP, LOWER & mask((BACK < 20) | (np.arange(T) < 3))),
    "packed, window": Asked(causal(PACKED).with_pattern(WINDOW), LOWER & SAME & (IN_DOCUMENT < 40)),
    "chunks": Asked(
        causal(ROW).with_pattern(Chunked(size=40)), LOWER & mask(np.arange(T)[:, None] // 40 == np.arange(T) // 40)
    ),
    "soft-cap": Asked(causal(ROW), LOWER, softcap=2.0),
    "sinks": Asked(causal(ROW), LOWER, sinks=True),
    "ALiBi": Asked(causal(ROW), LOWER, mask(BACK), bias="linear"),
    "packed, ALiBi": Asked(causal(PACKED), LOWER & SAME, IN_DOCUMENT, bias="linear"),
    "trained bias": Asked(causal(ROW), LOWER, mask(BACK), bias="trained", kv_heads=2),
    "unequal widths": Asked(causal(ROW), LOWER, values=5),
    "dropout": Asked(causal(ROW), LOWER, dropout=0.3, kv_heads=2),
    "bidirectional": Asked(bidirectional(ROW), mask(BACK < T)),
    "bidirectional, packed": Asked(bidirectional(PACKED), SAME),
    "bidirectional, window": Asked(bidirectional(ROW).with_pattern(WINDOW), mask(np.abs(BACK) < 40)),
    "prefix": Asked(
        causal(ROW).with_prefix(np.array([60, 5])), LOWER | (np.arange(T) < np.array([60, 5])[:, None, None])
    ),
    "array": Asked(causal(ROW).with_mask(mask(BACK % 3 < 2)), LOWER & mask(BACK % 3 < 2)),
    "cache": Asked(
        causal(Coordinates(7, index=CACHED), Coordinates(T)), CACHED[:, :, None] >= np.arange(T), kv_heads=2
    ),
    "later queries": Asked(causal(Coordinates(60, 90), Coordinates(T)), mask(BACK[90:] >= 0)),
    "cache, window, ALiBi": Asked(
        causal(Coordinates(7, index=CACHED), Coordinates(T)).with_pattern(WINDOW),
        (CACHED[:, :, None] >= np.arange(T)) & (CACHED[:, :, None] - np.arange(T) < 40),
        CACHED[:, :, None] - np.arange(T),
        bias="linear",
    ),
    "everything at once": Asked(
        causal(PACKED).with_pattern(WINDOW),
        LOWER & SAME & (IN_DOCUMENT < 40),
        IN_DOCUMENT,
        kv_heads=2,
        softcap=2.0,
        sinks=True,
        bias="trained",
        values=5,
        dropout=0.3,
    ),
}
SEEN = (
    "grouped",
    "packed, window",
    "trained bias",
    "dropout",
    "bidirectional, window",
    "prefix",
    "cache, window, ALiBi",
)
SEEN += ("everything at once",)  # by `make test`
ASKED_KERNELS = {"blocks": Blocks(), "plain": Plain(), "tiles": Tiles(queries=32, keys=48)}
OTHER_TILES = {"tiles that fit": Tiles(queries=50, keys=30), "one tile": Tiles()}


def inputs(asked):
    """Returns queries, keys, values, sinks, a table of six buckets for four heads, and a cotangent of the output."""
    rng, (_, t, s) = np.random.default_rng(0), asked.mask.shape
    shapes = [(2, t, 4, 8), (2, s, asked.kv_heads, 8), (2, s, asked.kv_heads, asked.values), (4,), (6, 4)]
    return [rng.normal(size=shape) for shape in shapes], rng.normal(size=(2, t, 4, asked.values))


def bucket(distance):
    """Returns T5's bucket, of six up to a distance of 40: three hold one distance each, three grow geometrically."""
    far = 3 + np.floor(3 * np.log(np.maximum(distance, 3) / 3) / np.log(40 / 3) + 1e-9).astype(int)
    return np.where(distance < 3, np.maximum(distance, 0), np.minimum(far, 5))


def equation(asked, kept, q, k, v, sink, table):
    """Computes the heads' outputs; `kept` (B, N, T, S) is the factor of dropout on every weight."""
    k, v = (jnp.repeat(x, 4 // asked.kv_heads, axis=2) for x in (k, v))
    scores = 0.4 * jnp.einsum("btnh,bsnh->bnts", q, k)
    if asked.softcap is not None:
        scores = asked.softcap * jnp.tanh(scores / asked.softcap)
    if asked.bias == "linear":
        scores -= SLOPES[:, None, None] * asked.distance[:, None]
    elif asked.bias == "trained":
        scores += jnp.moveaxis(table[bucket(asked.distance)], -1, 1)
    weights = jnp.exp(jnp.where(asked.mask[:, None], scores, -jnp.inf))
    total = weights.sum(-1, keepdims=True) + (jnp.exp(sink)[:, None, None] if asked.sinks else 0)
    return jnp.einsum("bnts,bsnh->btnh", weights / total * kept, v)


def by_kernel(asked, kernel, q, k, v, sink, table):
    biases = {"linear": LinearBias(tuple(SLOPES)), "trained": RelativeBias(buckets=6, max_distance=40).bias(4, table)}
    return attend(
        q,
        k,
        v,
        asked.visibility,
        Scoring(0.4, asked.softcap),
        bias=biases.get(asked.bias),
        sink_N=sink if asked.sinks else None,
        dropout=asked.dropout,
        dropout_key=jax.random.key(3),
        kernels=(kernel,),
    )


def dropped(asked, kernel, arrays):
    """Returns the factor of the kernel's dropout on every weight: one-hot values make it visible in the output."""
    if not asked.dropout:
        return 1.0
    q, k, _, sink, table = arrays
    s = k.shape[1]
    v = np.broadcast_to(np.eye(s, dtype=np.float32)[None, :, None], (2, s, asked.kv_heads, s))
    seen = np.asarray(jax.jit(by_kernel, static_argnums=1)(asked, kernel, q, k, v, sink, table)).transpose(0, 2, 1, 3)
    visible = np.broadcast_to(asked.mask[:, None], seen.shape)
    assert 0.25 < (seen[visible] == 0).mean() < 0.35
    return (seen != 0) / (1 - asked.dropout)


@pytest.mark.parametrize(
    "name", representatives(["everything at once", "bidirectional", "cache"], "everything at once")
)
@pytest.mark.parametrize("tiles", OTHER_TILES)
def test_tiles_of_other_sizes(name, tiles):
    check(REQUESTS[name], OTHER_TILES[tiles])


@pytest.mark.parametrize("kernel", ASKED_KERNELS)
@pytest.mark.parametrize("name", representatives(REQUESTS, *SEEN))
def test_outputs_and_gradients_are_those_of_the_equation(name, kernel):
    check(REQUESTS[name], ASKED_KERNELS[kernel])


def check(asked, kernel):
    arrays, towards = inputs(asked)
    single = [np.asarray(x, np.float32) for x in arrays]
    kept = dropped(asked, kernel, single)

    def both(function, *arrays):
        y, pull = jax.vjp(function, *arrays)
        return (y, *pull(jnp.asarray(towards, y.dtype)))

    got = jax.jit(lambda *arrays: both(lambda *x: by_kernel(asked, kernel, *x), *arrays))(*single)
    with jax.enable_x64(True):
        want = jax.jit(lambda *arrays: both(lambda *x: equation(asked, kept, *x), *arrays))(*arrays)
        want = [np.asarray(x) for x in want]
    for name, one, other in zip(("y", "q", "k", "v", "sink", "table"), got, want, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * max(1, np.abs(other).max()), err_msg=name)
    assert np.abs(want[4]).max() > 0.01 or not asked.sinks
    assert np.abs(want[5]).max() > 0.01 or asked.bias != "trained"


@pytest.mark.parametrize("kernel", ASKED_KERNELS)
def test_half_precision(kernel):
    """With bfloat16 inputs, sums are float32, and outputs are within one or two roundings of eight bits."""
    asked = REQUESTS["packed"]
    arrays, _ = inputs(asked)
    low = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    y = by_kernel(asked, ASKED_KERNELS[kernel], *low)
    want = equation(asked, 1.0, *(x.astype(jnp.float32) for x in low))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.02)


@pytest.mark.parametrize("kernel", ASKED_KERNELS)
@pytest.mark.parametrize(
    "name",
    representatives(
        ["causal", "later queries", "cache", "window", "everything at once"], "window", "everything at once"
    ),
)
def test_no_query_depends_on_a_later_key(name, kernel):
    asked = REQUESTS[name]
    arrays, _ = inputs(asked)
    q, k, v, sink, table = (jnp.asarray(x, jnp.float32) for x in arrays)

    def output(k, v, t):
        return by_kernel(asked, ASKED_KERNELS[kernel], q, k, v, sink, table)[:, t].sum()

    slopes = jax.jit(jax.grad(output, argnums=(0, 1)))
    for t in (0, 3, q.shape[1] - 1):
        for which, row in itertools.product((0, 1), range(2)):
            felt = np.abs(np.asarray(slopes(k, v, t)[which][row])).max((1, 2)) > 0
            assert not (felt & ~asked.mask[row, t]).any()
            if which == 1 and not asked.dropout:  # a query's only key has a gradient only through its value
                assert felt[asked.mask[row, t]].all()


# ------------------------------------------------------------------------------------------------------- the door


def shapes(t, s, batch=1, heads=4):
    return [jax.ShapeDtypeStruct((batch, length, heads, 8), jnp.float32) for length in (t, s, s)]


def chosen(t, platform, s=None, visibility=None, **asked):
    visibility = causal(Coordinates(t)) if visibility is None else visibility
    return choose(new_request(*shapes(t, s or t), visibility, Scoring(1.0), platform=platform, **asked))


@pytest.mark.parametrize(
    ("platform", "length", "kernel"),
    [
        ("cpu", 64, "blocks"),
        ("cpu", 4096, "blocks"),
        ("cpu", 8192, "tiles"),
        ("tpu", 64, "blocks"),
        ("tpu", 1000, "blocks"),
        ("tpu", 2048, "splash"),
        ("tpu", 2050, "tiles"),
        ("gpu", 32768, "tiles"),
    ],
)
def test_the_kernel_depends_on_platform_and_length(platform, length, kernel):
    assert chosen(length, platform).kernel.name == kernel


def test_a_window_makes_blocks_smaller():
    windowed = causal(Coordinates(32768)).with_pattern(SlidingWindow(size=512))
    assert chosen(32768, "cpu", visibility=windowed).kernel.name == "tiles"
    windowed = causal(Coordinates(8192)).with_pattern(SlidingWindow(size=512))
    assert chosen(8192, "cpu", visibility=windowed).kernel.name == "blocks"


def test_one_query_sees_a_long_cache():
    visibility = causal(Coordinates(1, index=np.array([[5]])), Coordinates(131072))
    assert [chosen(1, platform, 131072, visibility).kernel.name for platform in ("cpu", "gpu")] == ["blocks"] * 2


def test_the_choice_says_why(monkeypatch):
    monkeypatch.setattr(tokamax, "is_installed", lambda: False)
    assert str(chosen(64, "cpu")) == "blocks"
    assert str(chosen(8192, "gpu")) == (
        "tiles (not cudnn: it takes bfloat16 and float16, not float32; not tokamax: it is not installed: "
        "pip install -e '.[tokamax]'; not triton: it takes bfloat16 and float16, not float32; "
        "not blocks: its largest block would have 16,777,216 scores a head, more than 262,144)"
    )


def test_a_request_that_no_kernel_takes_is_refused_with_all_reasons():
    class Picky(Plain):
        def supports(self, request):
            return f"{request.visibility.patterns[0]} is more than it can do"

    visibility = causal(Coordinates(8192)).with_pattern(Fixed(stride=4))
    request = new_request(*shapes(8192, 8192), visibility, Scoring(1.0), platform="gpu")
    message = (
        "no kernel for attention supports this request on a gpu: plain: Fixed(stride=4, summaries=1) is more "
        "than it can do; blocks: its largest block would have 16,777,216 scores a head, more than 262,144"
    )
    with pytest.raises(UserError) as caught:
        choose(request, (Picky(), Blocks()))
    assert str(caught.value) == message


def test_the_request_has_the_platform_of_the_layout():
    """Even if another platform traces: a pod's program, compiled on a CPU."""

    class OfAPod(Layout):
        platform = "tpu"

    class Listening(Plain):
        def supports(self, request):
            return None if request.platform == "tpu" else "not asked by the pod"

    q, k, v = shapes(8, 8)
    jax.eval_shape(
        lambda q, k, v: attend(
            q, k, v, causal(Coordinates(8)), Scoring(1.0), layout=OfAPod(), kernels=(Listening(),)
        ),
        q, k, v,
    )  # fmt: skip


def test_the_first_that_supports_a_request_is_taken():
    request = new_request(*shapes(64, 64), causal(Coordinates(64)), Scoring(1.0))
    assert request.platform == jax.default_backend()
    assert choose(request, (Plain(), Blocks())) == Choice(Plain(), {})
    assert [kernel.name for kernel in KERNELS] == [*"cudnn tokamax triton splash blocks tiles plain".split()]
