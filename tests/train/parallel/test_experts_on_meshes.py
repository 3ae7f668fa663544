"""Experts on eight devices: the numbers of one device, and the collectives of the compiled programs."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.dispatch import Capacity, dispatch_dropless, dispatch_with_capacity
from model.feedforward.exchange import places
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP
from model.feedforward.placement import EXPERT_AXES
from model.kernels import experts as expert_kernels
from model.kernels import recorded_choices
from model.kernels.experts.grouped_products import RAGGED_DOT
from model.kernels.experts.megablox import Megablox
from model.layout import ONE_DEVICE
from model.options.assignments import override
from model.transformer import abstract_params, stream
from tests.train.parallel.test_collectives import collectives, sizes_of
from tests.train.parallel.test_sharded_steps import devices_of, on_one_device, train
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import ActivationAxes, ParameterAxes, Sharding, layout_of, param_shardings

B, T, D, F, E, R = 8, 4, 16, 24, 8, 2


def over(*axes, **changes):
    return Sharding(
        parameters=ParameterAxes(expert=axes, **changes), activations=ActivationAxes(expert=axes, **changes)
    )


MESHES = {
    "fsdp": (Mesh(data=1, fsdp=8), Sharding()),
    "expert": (Mesh(data=1, expert=8), Sharding()),
    "data, expert, tensor": (Mesh(data=2, expert=2, tensor=2), Sharding()),
    "expert, fsdp, tensor": (Mesh(data=1, expert=2, fsdp=2, tensor=2), Sharding()),
    "expert, context": (Mesh(data=1, expert=4, context=2), Sharding()),
    "expert, context, fsdp": (Mesh(data=1, expert=2, context=2, fsdp=2), Sharding()),
    "experts over tensor": (Mesh(data=2, tensor=4), over("tensor")),
    "experts over expert and fsdp": (Mesh(data=1, expert=2, fsdp=4), over("expert", "fsdp")),
    "experts over tensor and fsdp": (Mesh(data=2, tensor=2, fsdp=2), over("tensor", "fsdp")),
    "experts and positions over context": (Mesh(data=2, context=4), over("context")),
    "experts stored whole": (Mesh(data=2, expert=4), dataclasses.replace(Sharding(), parameters=over().parameters)),
}


def numbers(*shape, seed=0):
    return 0.3 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {
    "gate": numbers(E, D, F, seed=1),
    "up": numbers(E, D, F, seed=2),
    "down": numbers(E, F, D, seed=3),
    "gate_bias": numbers(E, F, seed=4),
    "up_bias": numbers(E, F, seed=5),
    "down_bias": numbers(E, D, seed=6),
}
ROUTINGS = {
    "random": np.random.default_rng(0).permuted(np.tile(np.arange(E), (B, T, 1)), axis=2)[..., :R].astype(np.int32),
    "all tokens to two experts": np.broadcast_to(np.arange(R, dtype=np.int32), (B, T, R)),
}


def gated(rows, product):
    return product(jax.nn.silu(product(rows, "gate")) * product(rows, "up"), "down")


def dispatched(way, on_input, layout, x, weight, params, chosen):
    inputs = (x, chosen, *((weight, None) if on_input else (None, weight)), params, gated, layout)
    return dispatch_with_capacity(way, *inputs)[0] if isinstance(way, Capacity) else dispatch_dropless(*inputs)


def gradient(way, on_input, layout):
    def total(x, weight, params, chosen):
        return jnp.sum(jnp.sin(dispatched(way, on_input, layout, x, weight, params, chosen)))

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))


@functools.cache
def alone(way, on_input, routing):
    given = numbers(B, T, D, seed=7), numbers(B, T, R, seed=8), PARAMS, ROUTINGS[routing]
    return given, jax.device_get(gradient(way, on_input, ONE_DEVICE)(*given))


def check_equal(way, on_input, routing, mesh, table):
    given, expected = alone(way, on_input, routing)
    found = jax.device_get(gradient(way, on_input, layout_of(make_mesh(mesh), table))(*given))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    assert all(np.any(g) for g in jax.tree.leaves(expected))


@pytest.mark.parametrize(
    ("way", "routing"), [("dropless", "all tokens to two experts"), (Capacity(factor=1.0), "random")], ids=str
)
def test_outputs_and_gradients_are_those_of_one_device(way, routing):
    """With the routing to one device, which takes several rounds, and with dropped tokens."""
    check_equal(way, False, routing, *MESHES["expert, fsdp, tensor"])


@pytest.mark.sweep
@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("way", ["dropless", Capacity(factor=1.0)], ids=str)
@pytest.mark.parametrize("name", MESHES)
def test_outputs_and_gradients_on_all_meshes(name, way, routing, on_input):
    check_equal(way, on_input, routing, *MESHES[name])


@pytest.mark.parametrize("name", ["expert", *(pytest.param(n, marks=pytest.mark.sweep) for n in ("fsdp", "all three"))])
def test_bfloat16_rows_and_float32_parameters(name):
    """Rows are rounded alike everywhere; the float32 sums of gradients differ in their order.

    Only devices that share the width of an expert add up rounded outputs.
    """
    mesh, table = MESHES["expert, fsdp, tensor" if name == "all three" else name]
    x, weight, params, chosen = alone("dropless", False, "random")[0]
    given = jnp.asarray(x, jnp.bfloat16), jnp.asarray(weight, jnp.bfloat16), params, chosen
    found, expected = (
        jax.device_get(gradient("dropless", False, each)(*given))
        for each in (layout_of(make_mesh(mesh), table), ONE_DEVICE)
    )
    rounding = 2.0**-6 if name == "all three" else 2.0**-22
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (
            one.dtype
            == other.dtype
            == (jnp.float32 if one.shape in {p.shape for p in params.values()} else jnp.bfloat16)
        )
        one, other = (np.asarray(each, np.float32) for each in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=rounding * np.abs(other).max())


def test_rows_that_the_mesh_does_not_divide_as_in_decoding():
    """Three rows of one token, four ways of experts: each device computes its experts for all rows."""
    layout = layout_of(make_mesh(Mesh(data=1, fsdp=2, expert=4)), Sharding())
    given = (numbers(3, 1, D), numbers(3, 1, R), PARAMS, ROUTINGS["random"][:3, :1])
    found, expected = (
        jax.jit(functools.partial(dispatched, "dropless", False, each))(*given) for each in (layout, ONE_DEVICE)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_under_scan_and_rematerialisation():
    """Two layers with their own parameters."""
    x, weight, chosen = numbers(B, T, D, seed=7), numbers(B, T, R, seed=8), ROUTINGS["random"]
    params = jax.tree.map(lambda p: np.stack([p, -p]), PARAMS)

    def total(layout, x, params):
        layer = jax.checkpoint(lambda x, p: dispatched("dropless", False, layout, x, weight, p, jnp.asarray(chosen)))
        return jnp.sum(jnp.sin(jax.lax.scan(lambda x, p: (x + layer(x, p), None), x, params)[0]))

    layout = layout_of(make_mesh(MESHES["experts over expert and fsdp"][0]), over("expert", "fsdp"))
    found, expected = (
        jax.device_get(jax.jit(jax.grad(functools.partial(total, each), argnums=(0, 1)))(x, params))
        for each in (layout, ONE_DEVICE)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


# --------------------------------------------------------------------------------------------- kernels of libraries

# The kernel takes multiples of 128: a device has 512 rows for the experts, and 640 places in a round.
WIDE = {
    name: numbers(4, *shape, seed=i)
    for i, (name, shape) in enumerate(
        {"gate": (128, 256), "up": (128, 256), "down": (256, 128), "down_bias": (128,)}.items()
    )
}
LONG = np.random.default_rng(0).permuted(np.tile(np.arange(4, dtype=np.int32), (4, 256, 1)), axis=2)[..., :2]
MEGABLOX = (Megablox(interpret=True, rows=128), RAGGED_DOT)
KERNEL_MESHES = {
    "expert, tensor": Mesh(data=1, expert=2, tensor=2),
    "expert": Mesh(data=1, expert=4),
    "fsdp": Mesh(data=1, fsdp=4),
    "expert, context": Mesh(data=1, expert=2, context=2),
}


def by_kernel(kernels, layout, stages=None):
    """Output, gradients and the record of chosen kernels, of one layer or of one layer in each of some stages."""

    def total(x, weight, params, chosen):
        layer = lambda x, *rest: dispatch_dropless(x, rest[2], None, *rest[:2], gated, layout, kernels)  # noqa: E731
        layer = layer if stages is None else jax.vmap(layer, spmd_axis_name="stage")
        return jnp.sum(jnp.sin(layer(x, weight, params, chosen)))

    given = numbers(4, 256, 128, seed=7), numbers(4, 256, 2, seed=8), WIDE, LONG
    given = given if stages is None else jax.tree.map(lambda x: np.stack([x] * stages), given)
    with recorded_choices() as chosen:
        found = jax.device_get(jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*given))
    return found, chosen


def assert_close(found, expected):
    """Up to the order of sums of 256 products, which matters for small numbers beside large ones."""
    check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6 * np.abs(b).max())  # noqa: E731
    jax.tree.map(check, found, expected)


@functools.cache
def by_xla_alone():
    return by_kernel((RAGGED_DOT,), ONE_DEVICE)[0]


@pytest.mark.parametrize(
    "name", ["expert, tensor", *(pytest.param(name, marks=pytest.mark.sweep) for name in list(KERNEL_MESHES)[1:])]
)
def test_a_kernel_of_a_library_runs_on_every_device(name):
    layout = layout_of(make_mesh(KERNEL_MESHES[name], jax.devices()[:4]), Sharding())
    found, chosen = by_kernel(MEGABLOX, layout)
    assert chosen == ["experts: megablox"]
    assert_close(found, by_xla_alone())


@pytest.mark.sweep
def test_a_kernel_of_a_library_runs_in_the_stages_of_a_pipeline():
    layout = layout_of(make_mesh(Mesh(data=1, stage=2, expert=2), jax.devices()[:4]), Sharding()).within_stage()
    (total, slopes), chosen = by_kernel(MEGABLOX, layout, stages=2)
    assert chosen == ["experts: megablox"]
    expected_total, expected = by_xla_alone()
    np.testing.assert_allclose(total, 2 * expected_total, rtol=1e-5)
    for stage in range(2):
        assert_close(jax.tree.map(lambda x, n=stage: x[n], slopes), expected)


def test_a_model_chooses_the_same_kernel_on_a_mesh(monkeypatch):
    monkeypatch.setattr(expert_kernels, "KERNELS", MEGABLOX)
    experts = Experts(num_experts=4, top_k=2, expert=MLP(width=256))
    config = ModelConfig(
        vocab_size=16, context_length=256, num_layers=1, width=128, mixer=GroupedQuery(num_heads=4), ffn=experts
    )

    def chosen(layout):
        with recorded_choices() as lines:
            run = functools.partial(stream, config, layout=layout)
            jax.eval_shape(lambda *x: run(*x).stream_BTD, abstract_params(config), jnp.zeros((4, 256), jnp.int32))
        return [line for line in lines if line.startswith("experts")]

    on_mesh = layout_of(make_mesh(Mesh(data=1, expert=2, fsdp=2), jax.devices()[:4]), Sharding())
    assert chosen(ONE_DEVICE) == chosen(on_mesh) == ["experts: megablox"]


# ----------------------------------------------------------------------------------------------------- collectives


@functools.cache
def compiled(way, name):
    """The gradient's program, with its inputs where a training step has them."""
    mesh, table = MESHES[name]
    layout = layout_of(make_mesh(mesh), table)
    shapes = {name: jax.ShapeDtypeStruct(p.shape, p.dtype) for name, p in PARAMS.items()}
    held = param_shardings(layout.mesh, table, EXPERT_AXES, shapes)
    tokens = layout.placement(("batch", "ffn_sequence", None))
    program = jax.jit(
        gradient(way, False, layout),
        in_shardings=(tokens, tokens, held, tokens),
        out_shardings=(None, (tokens, tokens, held)),
    )
    inputs = ((B, T, D), jnp.float32), ((B, T, R), jnp.float32), shapes, ((B, T, R), jnp.int32)
    text = program.lower(*(i if isinstance(i, dict) else jax.ShapeDtypeStruct(*i) for i in inputs)).compile().as_text()
    return text, {key: n for key, n in collectives(text).items() if key[1] == "f32"}


def test_tokens_travel_by_all_to_all_and_nothing_else_does():
    """Four tokens of 16 rows a device: C = 5 places of 4 devices, D wide; there, back, and in the backward pass thrice.

    A CPU's program has a result for each of the devices.
    """
    name, rows = "experts over expert and fsdp", B * T * R // 8
    text, found = compiled("dropless", name)
    sent = {key: n for key, n in found.items() if key[0] == "all-to-all"}
    assert sent == {("all-to-all", "f32", sizes_of(places(rows, 8), D, 1)): 5 * 8}
    assert set(found) == set(sent)  # no weight and no token is gathered
    sorted_rows = {int(n) for n in re.findall(r"s32\[(\d+)\][^=]* sort\(", text)}
    assert max(sorted_rows) <= max(rows, 8 * places(rows, 8)) < B * T * R


def test_with_experts_on_all_devices_no_token_travels():
    _, found = compiled("dropless", "fsdp")
    weight = sizes_of(E, D, F)
    assert {(kind, sizes) for kind, _, sizes in found} <= {
        (kind, sizes)
        for kind in ("all-gather", "reduce-scatter", "all-reduce")
        for sizes in (weight, sizes_of(E, D), sizes_of(E, F))
    } | {("reduce-scatter", sizes) for sizes in (sizes_of(E, D // 8, F), sizes_of(E, D // 8))}
    assert ("all-gather", "f32", weight) in found


def test_slots_travel_by_all_to_all():
    """Each way carries the slots of a device's rows, once forward and once backward, and no row is gathered."""
    _, found = compiled(Capacity(factor=1.0), "experts over expert and fsdp")
    slots = Capacity(factor=1.0).slots(E, R, T)
    assert found == {("all-to-all", "f32", sizes_of(1, 1, slots, D)): 4 * 8}


# -------------------------------------------------------------------------------------------- whole training steps

VARIANTS = {
    "sigmoid": "top_k=2, router=SigmoidRouter(bias=True), shared=Shared(ffn=Gated(width=16), gate=True), "
    "balance_loss=BalanceLoss(coefficient=0.1), router_z_loss=0.01, load_bias=LoadBias(rate=0.01)",
    "one of each token": "top_k=1, apply_weights_to='input', router=SigmoidRouter(renormalize=False)",
    "all": "top_k=8, balance_loss=BalanceLoss(coefficient=0.1, over='sequence')",
    "all tokens to two experts": "top_k=2, router=SoftmaxRouter(bias=True)",
    "norms": "top_k=2, router=SoftmaxRouter(norm=RMSNorm, expert_scale=True), branch_norms=RMSNorm",
}
STEP_MESHES = ("expert", "data, expert, tensor", "expert, context", "expert, fsdp, tensor", "experts over tensor")


@pytest.mark.sweep
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", STEP_MESHES)
def test_training_steps_are_those_of_one_device(name, variant, tiny_experiment):
    changes = [
        f"model.ffn=Experts(num_experts=8, expert=Gated(width=16, bias=True), {VARIANTS[variant]})",
        "model.initialization=Normal(std=0.2)",
        "optimizer.epsilon=1e-4",  # else Adam blows rounding up where a gradient is nearly 0
    ]
    changes += ["model.residual=Sandwich(ffn_input_norm=False)"] if variant == "norms" else []
    experiment = functools.reduce(
        override, changes, tiny_experiment(model__vocab_size=64, model__mixer__num_kv_heads=4, schedule__peak=3e-3)
    )
    start, batches, expected_losses, expected = on_one_device(experiment)
    if variant == "all tokens to two experts":
        rigged = start.params["blocks"]["ffn"]["router_bias"].copy()
        rigged[:, :2] = 50.0
        ffn = start.params["blocks"]["ffn"] | {"router_bias": rigged}
        params = start.params | {"blocks": start.params["blocks"] | {"ffn": ffn}}
        start = dataclasses.replace(start, params=params)
        expected_losses, expected = train(experiment, make_mesh(Mesh(), jax.devices()[:1]), start, batches)
    option, table = MESHES[name]
    mesh = make_mesh(option, devices_of(option))
    losses, params = train(dataclasses.replace(experiment, sharding=table), mesh, start, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for parameter, value in expected.items():
        np.testing.assert_allclose(params[parameter], value, rtol=1e-5, atol=1e-5, err_msg=parameter)
