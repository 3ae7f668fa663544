"""Edits of taps: their effect, the layers where they act, and errors for edits without effect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.encoder.source import Source
from model.errors import UserError
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.layers import Except
from model.positions.absolute import NoPositions
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace
from model.residual import HyperConnections
from model.stack import empty_caches
from model.taps.meanings import TAPS
from model.taps.request import Tap, Taps
from model.transformer import forward
from model.vocabulary.multi_token import MultiToken
from tests.tiers import representatives

WAYS = {
    "scanned": {},
    "written out": {"scan_layers": False},
    "scanned, recomputed": {"remat": "full"},
    "written out, recomputed": {"scan_layers": False, "remat": "dots"},
}


def logits(config, params, tokens, edit=None, **options):
    """Of a forward pass with edits, compiled."""
    return np.asarray(
        jax.jit(lambda p: forward(config, p, tokens, taps=Taps(edit=edit or {}), **options).logits_BTV)(params)
    )


def changed(params, path, change):
    """Returns parameters with one of them changed, by its path."""
    if not path:
        return change(params)
    return {**params, path[0]: changed(params[path[0]], path[1:], change)}


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def four(small, drawn):
    config = small(num_layers=4)
    return config, drawn(config)


# Each edit, and the parameters that do the same: of all four layers, of two of them, of one head in one layer.
def halved(x, site):
    return x * 0.5


EDITS = {
    "all layers": ({"ffn_output": halved}, ("blocks", "ffn", "down"), lambda p: p * 0.5),
    "two layers": (
        {Tap("ffn_hidden", layers=(-1, 1)): halved},
        ("blocks", "ffn", "down"),
        lambda p: p.at[np.array([1, 3])].multiply(0.5),
    ),
    "a head": (
        {Tap("mixer_heads", (2,)): lambda x, site: x.at[:, :, 3].set(0.0)},
        ("blocks", "mixer", "output"),
        lambda p: p.at[2, 3].set(0.0),
    ),
    "by the layer's number": (
        {"mixer_output": lambda x, site: jnp.where(site.layer == 2, 0.0, x).astype(x.dtype)},
        ("blocks", "mixer", "output"),
        lambda p: p.at[2].set(0.0),
    ),
    "one after another": (
        {Tap("ffn_output", (0, 1)): halved, "ffn_output": lambda x, site: x * (1 + site.layer)},
        ("blocks", "ffn", "down"),
        lambda p: p * jnp.array([0.5, 1.0, 3.0, 4.0])[:, None, None],
    ),
}


@pytest.mark.parametrize("way", representatives(WAYS, "scanned"))
def test_an_edit_does_what_other_parameters_do(way, four, tokens):
    config, params = dataclasses.replace(four[0], **WAYS[way]), four[1]
    before = logits(config, params, tokens)
    for edit, path, change in EDITS.values():
        expected = logits(config, changed(params, path, change), tokens)
        assert np.abs(expected - before).max() > 1e-2
        close(logits(config, params, tokens, edit), expected)


@pytest.mark.parametrize("way", representatives(WAYS, "scanned"))
def test_patching_everything_gives_the_other_run_and_patching_nothing_changes_nothing(way, four, tokens, run):
    config, params = dataclasses.replace(four[0], **WAYS[way]), four[1]
    other = np.flip(tokens, axis=1)
    clean, _, kept = run(config, params, tokens, taps=("block_output", "embedding"))
    corrupt = np.asarray(run(config, params, other)[0])

    def patch(x, site):
        return kept["block_output"][site.layer]

    for layers in ((3,), (0,), None):
        close(logits(config, params, other, {Tap("block_output", layers): patch}), clean)
    close(logits(config, params, other, {"embedding": lambda x, site: kept["embedding"]}), clean)
    close(logits(config, params, other, {"block_output": lambda x, site: x}), corrupt)

    def patch_last_positions(x, site):
        return jnp.where((site.positions_BT >= 7)[..., None], patch(x, site), x)

    mixed = logits(config, params, other, {Tap("block_output", (3,)): patch_last_positions})
    close(mixed[:, 7:], clean[:, 7:])
    close(mixed[:, :7], corrupt[:, :7])


@pytest.mark.parametrize("way", representatives(WAYS, "scanned, recomputed", "written out"))
def test_an_edit_has_gradients(way, small, drawn, tokens):
    """The gradient of a vector added in one layer is that of the bias there; a second layer would make it infinite."""
    config = small(num_layers=3, mixer=GroupedQuery(num_heads=4, output_bias=True), **WAYS[way])
    params = drawn(config)
    towards = np.random.default_rng(0).normal(size=(2, 12, 17)).astype(np.float32)

    def loss(params, added):
        def steer(x, site):
            return x + added / jnp.sqrt((site.layer == 1).astype(x.dtype))

        taps = Taps(edit={Tap("mixer_output", layers=(1,)): steer})
        return jnp.sum(forward(config, params, tokens, taps=taps).logits_BTV * towards)

    of_params, of_added = jax.jit(jax.grad(loss, (0, 1)))(params, jnp.zeros(16))
    np.testing.assert_allclose(of_added, of_params["blocks"]["mixer"]["output_bias"][1], rtol=1e-3, atol=1e-4)
    assert np.abs(of_added).max() > 1e-2


@pytest.mark.parametrize("mixer", representatives(["grouped", "latent", "state space"], "grouped", "latent"))
@pytest.mark.parametrize("scan", representatives([True, False], True))
def test_edits_while_decoding_equal_those_of_the_whole_sequence(mixer, scan, small, drawn, tokens):
    option = {
        "grouped": GroupedQuery(num_heads=4, num_kv_heads=2),
        "latent": Latent(num_heads=3, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6),
        "state space": StateSpace(num_heads=4, state_dim=5),
    }[mixer]
    position = {"position": NoPositions()} if mixer == "state space" else {}
    config = small(num_layers=3, mixer=option, scan_layers=scan, **position)
    params = drawn(config)

    def by_position(x, site):
        keep = (site.positions_BT % 3 != 1) & (site.tokens_BT > 3)
        return x * keep.reshape(*keep.shape, *[1] * (x.ndim - 2)).astype(x.dtype)

    edit = {Tap("query", (0, 2)): by_position, Tap("ffn_hidden", (1,)): by_position, "mixer_heads": by_position}
    if mixer == "latent":
        edit[Tap("latent", (1,))] = by_position
    expected = logits(config, params, tokens, edit)
    assert np.abs(expected - logits(config, params, tokens)).max() > 1e-2

    @jax.jit
    def step(params, cache, some, positions):
        output = forward(config, params, some, positions_BT=positions, cache=cache, taps=Taps(edit=edit))
        return output.logits_BTV, output.cache

    cache, at = empty_caches(config, 2, 12), 0
    for count in (7, 1, 1, 3):
        positions = jnp.broadcast_to(jnp.arange(at, at + count), (2, count))
        got, cache = step(params, cache, tokens[:, at : at + count], positions)
        np.testing.assert_allclose(got, expected[:, at : at + count], rtol=1e-3, atol=1e-4)
        at += count


def test_segments_are_told(four, tokens):
    segment_ids = np.repeat([[0, 1]], 6, axis=1).repeat(2, axis=0)
    seen = []
    logits(*four, tokens, {"embedding": lambda x, site: seen.append(site) or x}, segment_ids_BT=segment_ids)
    assert seen[0].layer is None
    np.testing.assert_array_equal(seen[0].segment_ids_BT, segment_ids)
    assert seen[0].name == "embedding"


# --------------------------------------------------------------------------------------------------- all mechanisms

EXPERTS = Experts(num_experts=6, top_k=2, expert=Gated(width=8))
NO = {"position": NoPositions()}
MODELS = {
    "dense": {},
    "latent": {"mixer": Latent(num_heads=3, kv_rank=5, head_dim=4, rotary_head_dim=2, value_head_dim=6)},
    "linear": {"mixer": LinearAttention(num_heads=4), **NO},
    "delta": {"mixer": GatedDelta(num_heads=4), **NO},
    "state space": {"mixer": StateSpace(num_heads=4, state_dim=5), **NO},
    "lstm": {"mixer": LSTM(num_heads=2), **NO},
    "gru": {"mixer": GRU(num_heads=2), **NO},
    "experts": {"ffn": EXPERTS},
    "streams": {"residual": HyperConnections(streams=2)},
}


def met(config, params, tokens, **inputs):
    """The taps that a model offers, and where."""
    with pytest.raises(UserError, match="no tap is called 'zzz'; known: ") as caught:
        jax.eval_shape(lambda: forward(config, params, tokens, taps=("zzz",), **inputs).logits_BTV)
    return str(caught.value).partition("known: ")[2].split(", ")


def another(x, site):
    """Returns other numbers, and numbers of existing experts."""
    return (x + 1) % 6 if x.dtype == jnp.int32 else x * 0.7 + 0.1


@pytest.mark.parametrize("name", representatives(MODELS, "dense", "latent"))
def test_every_tap_can_be_edited_or_says_that_it_cannot(name, small, drawn, tokens):
    config = small(scan_layers=False, **MODELS[name])
    params = drawn(config)
    before = forward(config, params, tokens).logits_BTV
    for tap in met(config, params, tokens):
        if TAPS[tap].editable:
            after = forward(config, params, tokens, taps=Taps(edit={tap: another})).logits_BTV
            assert np.abs(before - after).max() > 1e-4, tap
            continue
        with pytest.raises(UserError, match=f"tap '{tap}' cannot be edited: it is not computed with; "):
            forward(config, params, tokens, taps=Taps(edit={tap: another}))


def test_the_list_of_taps_is_that_of_the_mechanisms(small, drawn, tokens):
    offered = set()
    for changes in MODELS.values():
        config = small(**changes)
        offered |= set(met(config, drawn(config), tokens))
    reads = {"num_layers": 1, "context_length": 12, "mixer": GroupedQuery(num_heads=2), "ffn": None}
    config = small(encoder=Encoder(cross=CrossAttention(num_heads=2), **reads))
    offered |= set(met(config, drawn(config), tokens, source=Source.of_lengths(tokens, np.full(len(tokens), 5))))
    assert offered == set(TAPS)


def test_no_edit_reaches_the_modules_that_predict_further_on(small, drawn, tokens):
    """They are no layers of the model: with the embedding put back, their loss is the same."""
    config = small(multi_token=MultiToken())
    params, options = drawn(config), {"weights_BT": np.ones(tokens.shape, np.float32), "targets_BT": tokens}
    plain = forward(config, params, tokens, taps=("block_output",), **options)
    edit = {"mixer_heads": another, Tap("block_output", (1,)): lambda x, site: plain.taps["block_output"][1]}
    after = forward(config, params, tokens, taps=Taps(edit=edit), **options)
    close(after.losses["multi_token_loss"], plain.losses["multi_token_loss"])


# -------------------------------------------------------------------------------------------------------- refusals


def refused(config, params, tokens, taps, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: forward(config, params, tokens, taps=taps).logits_BTV)


def test_what_is_not_there_is_refused(four, small, drawn, tokens):
    same, mixed = (lambda x, site: x), small(exceptions=(Except(layers="1", ffn=None),))
    for given, message in {
        ("edit", "mixer_head"): "no tap is called 'mixer_head'; did you mean 'mixer_heads'",
        ("keep", "attention_output"): "no tap is called 'attention_output'; did you mean 'mixer_output'",
        ("edit", Tap("querry", (1,))): "no tap is called 'querry'; did you mean 'query'",
        ("keep", Tap("query", range(3, 5))): "tap 'query': no layer is called 4; layers are 0 to 3, or -1 for the last",
        ("edit", Tap("query", (-5,))): "no layer is called -5",
        ("keep", Tap("query", ("2",))): "no layer is called '2'",
        ("keep", Tap("query", ())): "tap 'query': layers=\\(\\) names no layer",
        ("keep", Tap("query", (1, -3))): "names a layer twice",
        ("keep", Tap("embedding", (0,))): "tap 'embedding' is outside of the layers; leave out layers=\\(0,\\)",
        ("edit", Tap("final_norm", (3,))): "tap 'final_norm' is outside of the layers",
        (
            "edit",
            "attention_weights",
        ): "'attention_weights' cannot be edited: it is not computed with; known: block_output, ",
    }.items():
        kind, tap = given
        refused(*four, tokens, Taps(keep=(tap,)) if kind == "keep" else Taps(edit={tap: same}), message)
    refused(*four, tokens, ("query", Tap("query", (1,))), "taps: 'query' is kept twice")
    refused(*four, tokens, "query", "expected names, got the text 'query'")
    for taps in (Taps(keep=(Tap("ffn_hidden", (1,)),)), Taps(edit={Tap("ffn_hidden", (0, 1)): same})):
        refused(mixed, drawn(mixed), tokens, taps, "layer 1 has no tap 'ffn_hidden'; layers that have it: 0")


@pytest.mark.parametrize("scan", [True, False])
def test_an_edit_that_changes_shape_or_dtype_is_refused(scan, four, tokens):
    config = dataclasses.replace(four[0], scan_layers=scan)
    for edit, message in (
        (lambda x, site: x[:, :1], r"was given float32 \(2, 12, 24\) and gave float32 \(2, 1, 24\); an edit keeps"),
        (lambda x, site: x.astype(jnp.bfloat16), r"was given .* and gave bfloat16 \(2, 12, 24\)"),
        (lambda x, site: 0.0, "gave 0.0; it has to return an array"),
        (lambda x, site: None, "gave None; it has to return an array"),
    ):
        for tap in ("ffn_hidden", Tap("ffn_hidden", (1,))):
            refused(config, four[1], tokens, Taps(edit={tap: edit}), f"the edit of tap 'ffn_hidden' {message}")
