import jax
import pytest

from model.errors import UserError
from train.parallel.mesh import MESH_AXES, Mesh, format_mesh, make_mesh, parse_mesh


def test_the_data_axis_takes_the_devices_that_are_left():
    ones = dict.fromkeys(MESH_AXES, 1)
    assert dict(make_mesh(Mesh()).shape) == ones | {"data": 8}
    assert dict(make_mesh(Mesh(fsdp=2, tensor=2)).shape) == ones | {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(Mesh(expert=2, context=2)).shape) == ones | {"data": 2, "expert": 2, "context": 2}
    assert dict(make_mesh(Mesh(), jax.devices()[:3]).shape) == ones | {"data": 3}


@pytest.mark.parametrize("option", [Mesh(data=3), Mesh(fsdp=3), Mesh(fsdp=16), Mesh(data=4), Mesh(data=4, tensor=4)])
def test_a_mesh_that_does_not_multiply_is_refused(option):
    with pytest.raises(UserError, match=r"does not multiply to the 8 devices here; change a size"):
        make_mesh(option)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fsdp=4,tensor=2", Mesh(fsdp=4, tensor=2)),
        (" data=2 , fsdp=4 ", Mesh(data=2, fsdp=4)),
        ("tensor=1", Mesh()),
    ],
)
def test_a_flag_names_a_mesh_and_a_mesh_its_flag(text, expected):
    assert parse_mesh(text) == expected
    assert parse_mesh(format_mesh(expected)) == (expected if expected != Mesh() else Mesh(data=1))
    assert format_mesh(make_mesh(Mesh(fsdp=2, tensor=2))) == "data=2,fsdp=2,tensor=2"


@pytest.mark.parametrize(
    "text", ["4", "fsdp", "fsdp=", "fsdp=0", "fsdp=-1", "fsdp=x", "rows=2", "fsdp=4,,tensor=2", ""]
)
def test_a_flag_that_names_no_mesh_is_refused(text):
    with pytest.raises(UserError, match=r"is no size of an axis; expected fsdp=4 or fsdp=4,tensor=2"):
        parse_mesh(text)


def test_an_axis_that_is_named_twice_is_refused():
    with pytest.raises(UserError, match="fsdp is given twice"):
        parse_mesh("fsdp=2,fsdp=4")
