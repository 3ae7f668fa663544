"""Products of rows with the matrices of their experts: the kernels, and the choice among them.

The protocol of a kernel is in grouped_products.py, with the kernel that every platform has; every other is a file.
"""

import jax

from model.kernels import selection
from model.kernels.experts.grouped_products import RAGGED_DOT, GroupedKernel, GroupedRequest
from model.kernels.experts.megablox import Megablox
from model.kernels.experts.tiles import Tiles
from model.kernels.experts.tokamax import TokamaxRaggedDot
from model.kernels.request import compute_capability

# In the order in which they are asked.
KERNELS: tuple[GroupedKernel, ...] = (TokamaxRaggedDot(), Megablox(), Tiles(), RAGGED_DOT)


def kernel_for(x_MD: jax.Array, w_EDF: jax.Array, platform: str, kernels: tuple[GroupedKernel, ...]) -> GroupedKernel:
    """Returns the first of these kernels that multiplies rows by the matrices of their groups, and records it.

    Raises:
      UserError: if none of them takes the shapes on the platform.
    """
    x, w = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x_MD, w_EDF))
    request = GroupedRequest(x=x, w=w, platform=platform, compute_capability=compute_capability())
    choice = selection.choose(request, kernels)
    selection.record_choice(request.use, choice)
    kernel: GroupedKernel = choice.kernel
    return kernel


def only_xla(kernels: tuple[GroupedKernel, ...], platform: str) -> bool:
    """Whether all of these kernels that run on a platform are operations of XLA, whose copies JAX can follow."""
    return all(kernel.only_xla for kernel in kernels if selection.runs_on(kernel, platform))
