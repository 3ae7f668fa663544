"""The parameter table: its row for each parameter, and the bytes on a device."""

import jax

from train.parallel.mesh import Mesh, make_mesh
from train.run.parameter_table import bytes_per_device, describe, parameter_rows


def test_a_row_has_the_role_and_axes_without_a_name(tiny_experiment):
    experiment = tiny_experiment(model__mixer="LSTM(num_heads=2)", model__position="NoPositions()")
    rows = {row.name: row for row in parameter_rows(experiment)}
    assert rows["blocks.mixer.recurrent"].role == "recurrent"
    assert rows["blocks.mixer.recurrent"].axes == ("layer", "heads", "head_dim", None, None)
    assert rows["final_norm.scale"].role == "scale"
    text = describe(experiment, make_mesh(Mesh(), jax.devices()[:1]))
    line = next(line for line in text.splitlines() if line.startswith("blocks.mixer.recurrent"))
    assert line.split()[1:8] == ["recurrent", "2x2x16x4x16", "layer", "heads", "head_dim", "-", "-"]


def test_what_is_not_trained_is_a_parameter_without_gradient_and_moments(tiny_experiment):
    """Two moments of four bytes for each number that is trained; step, key, counts and rate beside them."""
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    ffn = "Experts(num_experts=4, top_k=2, expert=Gated(width=16){})"
    plain, biased = (tiny_experiment(model__ffn=ffn.format(more)) for more in ("", ", load_bias=LoadBias()"))
    before, after = (bytes_per_device(e, mesh) for e in (plain, biased))
    assert after == before | {"parameters": before["parameters"] + 4 * 2 * 4}
    assert before["gradients"] == before["parameters"]
