"""Matryoshka: the first features alone, and ever more of them, write the activation too."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from train.inspection.features.autoencoders.batch_top_k import BatchTopK
from train.inspection.features.autoencoders.interface import Inputs, Loss, Params, pre_activations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matryoshka(BatchTopK):
    """Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", equations 4 and 5.

        f as in BatchTopK        loss = sum over sizes m of |x - (W_dec,:m f_:m + b_dec)|^2 + the auxiliary loss

    A feature that the larger dictionaries need cannot take over part of a general one, because the general one must
    still serve the small dictionaries.

    Attributes:
      sizes: the sizes of the nested dictionaries, rising, without the whole one.
      k, auxiliary, threshold_rate: see `BatchTopK`.
    """

    sizes: tuple[int, ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from super().problems()
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            yield "sizes", f"must be rising numbers of at least 1, got {self.sizes}"

    def problems_with(self, width: int, output_width: int) -> Iterator[tuple[str, str]]:
        """See `Architecture`."""
        yield from super().problems_with(width, output_width)
        if self.sizes and self.sizes[-1] >= width:
            yield "sizes", f"{self.sizes[-1]} must be below width={width}, which is the last size by itself"

    def loss(self, params: Params, inputs: Inputs, dead_M: jax.Array, step: jax.Array) -> Loss:
        """See `Architecture`."""
        pre_BM = pre_activations(params, inputs.x_BD)
        f_BM = self.selected(pre_BM, inputs)
        # Each dictionary adds its features to the output of the smaller one.
        output_BO = jnp.broadcast_to(params["decoder_bias"], inputs.target_BO.shape)
        terms, start = {}, 0
        for size in (*self.sizes, f_BM.shape[1]):
            output_BO = output_BO + f_BM[:, start:size] @ params["decoder"][start:size]
            name = "reconstruction" if size == f_BM.shape[1] else f"reconstruction_{size}"
            terms[name], start = inputs.mean_square(output_BO), size
        terms |= self.auxiliary_terms(params, inputs, pre_BM, output_BO, dead_M)
        return Loss(sum(terms.values(), start=jnp.float32(0)), f_BM, output_BO, terms)
