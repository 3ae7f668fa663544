"""The compiled program of decoding on a CPU holds the cache once, in place, and no copy of parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import SlidingWindow
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.inference import cpu
from model.inference.generate import decode, generate, init_decode_state, initial_inputs, prefill, prepare_params
from model.inference.sampling import Sampling
from model.layers import Except
from model.layout import ONE_DEVICE, Layout
from model.parameters.precision import Precision
from model.recurrent.delta import GatedDelta
from model.stack import Unstacked, unstack_layers
from model.transformer import abstract_params, init
from tests.tiers import representatives
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ParameterAxes, Sharding, layout_of, param_shardings

SLOTS, ROWS = 1024, 3
RULES = Sampling(temperature=0, max_tokens=1).rules()
BASE = ModelConfig(
    vocab_size=61,
    context_length=SLOTS,
    num_layers=6,
    width=32,
    mixer=GroupedQuery(num_heads=4, num_kv_heads=2),
    ffn=MLP(width=64),
)
WINDOW = GroupedQuery(num_heads=4, pattern=SlidingWindow(size=400))
CONFIGS = {
    "one kind": {},
    "written out": {"scan_layers": False},
    "windows and all keys": {"mixer": WINDOW, "exceptions": (Except(layers="1::2", mixer=BASE.mixer),)},
    "windows alone": {"mixer": WINDOW},
    "one key head": {"mixer": GroupedQuery(num_heads=4, num_kv_heads=1), "num_layers": 8},
    "latent": {"mixer": Latent(num_heads=2, kv_rank=16, head_dim=8, rotary_head_dim=8, value_head_dim=8)},
    "beside a state": {
        "mixer": GatedDelta(num_heads=2, head_dim=8),
        "exceptions": (Except(layers="1::2", mixer=BASE.mixer),),
    },
}


def compiled(config, step):
    """A program of `decode` or `prefill` for abstract arguments, and the bytes of its cache."""
    inputs = initial_inputs([[1, 2, 3]] * ROWS, None, RULES, 0, config.vocab_size)
    state = jax.eval_shape(lambda **inputs: init_decode_state(config, ONE_DEVICE, SLOTS, **inputs), **inputs)
    params = jax.eval_shape(unstack_layers, abstract_params(config))
    if step == "decode":
        lowered = decode.lower(config, ONE_DEVICE, params, RULES, state)
    else:
        chunk = jax.ShapeDtypeStruct((ROWS, 16), jnp.int32)
        lowered = prefill.lower(config, ONE_DEVICE, params, state, chunk, np.int32(0))
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    return lowered.compile().memory_analysis(), size(state.cache), size(params)


@pytest.mark.parametrize(
    "name", representatives(CONFIGS, "one kind", "windows and all keys", "latent", "beside a state")
)
def test_a_step_extends_the_cache_in_place(name):
    memory, cache, params = compiled(dataclasses.replace(BASE, **CONFIGS[name]), "decode")
    assert cache > 4 * params  # or a tenth of the cache would say little
    assert memory.temp_size_in_bytes < cache / 10
    assert memory.alias_size_in_bytes >= cache  # the old cache's memory is the new one's


def test_prefill_extends_the_cache_in_place():
    memory, cache, _ = compiled(BASE, "prefill")
    assert memory.alias_size_in_bytes >= cache
    scores = ROWS * BASE.mixer.num_heads * 16 * SLOTS * 4
    assert memory.temp_size_in_bytes < 2 * scores + cache / 10  # as products and as weights


def test_a_step_copies_no_parameters():
    """Wide layers and a cache that is small beside them: a copy of one layer would be a tenth of all parameters."""
    config = dataclasses.replace(BASE, width=256, ffn=MLP(width=1024), num_layers=8)
    memory, _, params = compiled(config, "decode")
    assert memory.temp_size_in_bytes < params / 20


def test_parameters_are_cut_on_a_cpu_alone():
    class OfAGPU(Layout):
        platform = "gpu"

    params = jax.jit(init, static_argnums=0)(BASE, jax.random.key(0))
    assert cpu.decoding_params(params, OfAGPU()) is params
    cut = cpu.decoding_params(params, ONE_DEVICE)
    query, whole = cut["blocks"]["mixer"]["query"], params["blocks"]["mixer"]["query"]
    assert isinstance(query, Unstacked)
    for i in range(6):
        np.testing.assert_array_equal(query[i], whole[i])
    assert cut["embedding"] is not None
    jax.tree.map(np.testing.assert_array_equal, cut["embedding"], params["embedding"])


def test_cut_parameters_stay_where_they_were_on_the_mesh():
    mesh, table = make_mesh(Mesh(fsdp=4, tensor=2)), Sharding(parameters=ParameterAxes(vocab=()))
    from model.transformer import logical_axes

    placed = param_shardings(mesh, table, logical_axes(BASE), abstract_params(BASE))
    params = jax.device_put(jax.jit(init, static_argnums=0)(BASE, jax.random.key(0)), placed)
    cut = cpu.decoding_params(params, layout_of(mesh, table))
    for whole, parts in zip(jax.tree.leaves(params["blocks"]), _unstacked_leaves(cut["blocks"]), strict=True):
        expected = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*whole.sharding.spec[1:]))
        assert all(part.sharding.is_equivalent_to(expected, part.ndim) for part in parts.arrays)


def test_prepared_parameters_are_not_copied_again_and_write_the_same(monkeypatch):
    """In bfloat16, so that they are rounded too."""
    config = dataclasses.replace(BASE, num_layers=2, precision=Precision(compute="bfloat16"))
    params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    asked = [[[1, 2, 3]], [[4, 5], [6, 7]]], Sampling(temperature=0, max_tokens=4)
    plain = [generate(config, params, prompts, asked[1]) for prompts in asked[0]]
    ready = prepare_params(config, params, ONE_DEVICE)
    assert prepare_params(config, ready, ONE_DEVICE) is ready

    def refused(*_):
        raise AssertionError("parameters were copied")

    monkeypatch.setattr(cpu, "decoding_params", refused)
    monkeypatch.setattr("model.inference.generate._cast_for_inference", refused)
    assert [generate(config, ready, prompts, asked[1]) for prompts in asked[0]] == plain
    with pytest.raises(AssertionError, match="were copied"):
        generate(config, params, asked[0][0], asked[1])


def _unstacked_leaves(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Unstacked))
