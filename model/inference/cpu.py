"""Parameters for decoding on a CPU (measured: tests/benchmarks/README.md); other platforms do not use this."""

import jax

from model.layout import Layout
from model.stack import unstack_layers
from model.transformer import Params


def decoding_params(params: Params, layout: Layout) -> Params:
    """Returns the parameters for `prefill` and `decode`, which read the layers one after another.

    XLA on a CPU copies a layer's slice of an array before it multiplies with it, and so copies all parameters for every
    token: this takes four times as long as the products of a small model. So this function slices them once, which
    needs the memory of a second copy. A GPU reads slices in place.
    """
    return _unstack_layers(params) if layout.platform == "cpu" else params


_unstack_layers = jax.jit(unstack_layers)
