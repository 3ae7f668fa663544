"""The trained numbers of positions that all layers share, as in T5: one table outside of the layers.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.1.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from flax import nnx

from model.parameters.maker import ParameterMaker
from model.positions.relative import RelativeBias


def sharing(layers: Sequence[Any]) -> list[Any]:
    """Returns the layers of attention whose positions have a table that they share."""
    shares = [layer for layer in layers if isinstance(layer.position, RelativeBias) and layer.position.shared]
    return [layer for layer in shares if hasattr(layer.mixer, "num_heads")]


def new_shared_bias(layers: Sequence[Any], make: ParameterMaker) -> nnx.Param | None:
    """Makes the table that some of these layers share; None if none does."""
    if not (some := sharing(layers)):
        return None
    return some[0].position.new_table(some[0].mixer.num_heads, make)


def problems_of_sharing(layers: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yields why the layers of a model cannot share one table of positions."""
    some = sharing(layers)
    if len({layer.position for layer in some}) > 1:
        yield (
            "exceptions",
            "layers share one table of relative positions, and some have other buckets; give all the same",
        )
    if len({layer.mixer.num_heads for layer in some}) > 1:
        heads = sorted({layer.mixer.num_heads for layer in some})
        yield "exceptions", f"layers share one table of relative positions, and have {heads} heads; give all the same"
    if len(some) == 1:
        yield "position.shared", "one layer alone has such positions, so that none shares its table; set it False"
