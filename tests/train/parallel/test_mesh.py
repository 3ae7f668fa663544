import jax
import pytest

from model.errors import UserError
from train.parallel.mesh import Mesh, make_mesh


def test_the_data_axis_takes_the_devices_that_are_left():
    assert dict(make_mesh(Mesh()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(Mesh(fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(Mesh(), jax.devices()[:3]).shape) == {"data": 3, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("option", [Mesh(data=3), Mesh(fsdp=3), Mesh(fsdp=16), Mesh(data=4), Mesh(data=4, tensor=4)])
def test_a_mesh_that_does_not_multiply_is_refused(option):
    with pytest.raises(UserError, match=r"does not multiply to the 8 devices here; change mesh\.data"):
        make_mesh(option)
