"""The parameter table: its row for each parameter, and the bytes on a device."""

import dataclasses

import jax

from train.parallel.mesh import Mesh, make_mesh
from train.run.parameter_table import bytes_per_device, describe, parameter_rows, whole_latents


def test_a_row_has_the_role_and_axes_without_a_name(tiny_experiment):
    experiment = tiny_experiment(model__mixer="LSTM(num_heads=2)", model__position="NoPositions()")
    rows = {row.name: row for row in parameter_rows(experiment)}
    assert rows["blocks.mixer.recurrent"].role == "recurrent"
    assert rows["blocks.mixer.recurrent"].axes == ("layer", "heads", "head_dim", None, None)
    assert rows["final_norm.scale"].role == "scale"
    text = describe(experiment, make_mesh(Mesh(), jax.devices()[:1]))
    line = next(line for line in text.splitlines() if line.startswith("blocks.mixer.recurrent"))
    assert line.split()[1:8] == ["recurrent", "2x2x16x4x16", "layer", "heads", "head_dim", "-", "-"]


def test_latents_that_a_mesh_axis_does_not_divide(tiny_experiment):
    latent = "Latent(num_heads=2, kv_rank=12, query_rank=24, head_dim=4, rotary_head_dim=4, value_head_dim=4)"
    option = Mesh(data=1, fsdp=4, context=2)
    experiment = tiny_experiment(model__mixer=latent, mesh=option)
    assert whole_latents(experiment) == [
        "context=2 does not divide the latents of 12 numbers: their matrices are not split over context "
        "(sharding.parameters.rank)"
    ]
    assert whole_latents(dataclasses.replace(experiment, mesh=Mesh(fsdp=4))) == []
    text = describe(experiment, make_mesh(option))
    of = {line.split()[0]: line.split()[7:] for line in text.splitlines() if line.startswith("blocks.mixer")}
    assert of["blocks.mixer.key_up"][:4] == ["-", "fsdp", "-", "-"]
    assert of["blocks.mixer.query"][:4] == ["-", "fsdp+context", "-", "-"]


def test_what_is_not_trained_is_a_parameter_without_gradient_and_moments(tiny_experiment):
    """Two moments of four bytes for each number that is trained; step, key, counts and rate beside them."""
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    ffn = "Experts(num_experts=4, top_k=2, expert=Gated(width=16){})"
    plain, biased = (tiny_experiment(model__ffn=ffn.format(more)) for more in ("", ", load_bias=LoadBias()"))
    before, after = (bytes_per_device(e, mesh) for e in (plain, biased))
    assert after == before | {"parameters": before["parameters"] + 4 * 2 * 4}
    assert before["gradients"] == before["parameters"]
