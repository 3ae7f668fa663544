"""Decoding on a CPU, where it was measured (tests/benchmarks/README.md); programs for others trace none of it."""

import jax

from model.layout import Layout
from model.stack import unstacked
from model.transformer import Params


def ready(params: Params, layout: Layout) -> Params:
    """The parameters for `prefill` and `decode`, which read every layer's in turn.

    XLA on a CPU copies a layer's part of an array before it multiplies with it, all parameters again for every token:
    four times as long as the products of a small model. So they are cut once, for the memory of a second copy. A GPU
    reads parts where they lie.
    """
    return _unstacked(params) if layout.platform == "cpu" else params


_unstacked = jax.jit(unstacked)
