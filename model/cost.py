"""Sums over a model of what its mechanisms cost: exact counts of parameters and of floating-point operations.

Parameters are those of the abstract tree. What a mechanism computes it says itself, in the `cost` of its option.

Convention. A multiplication with its addition counts as 2. Counted are the matrix products of a forward pass: the
projections, the feed-forward layer, the logits, and the two products of attention over the pairs of a query and a key
that it may see: a causal sequence of T tokens has T (T + 1) / 2 pairs, not T^2, and a sliding window fewer. Not counted
are look-ups, norms, activations, softmax and the optimizer, and what rematerialisation computes again. The backward
pass has two products for each one of the forward pass, so training counts three times the forward pass, with that of
the modules that predict tokens further on, which run over all T tokens and in training alone. This is the
"model FLOPs" of Chowdhery et al. 2022 ("PaLM", appendix B) with causal attention counted once. Of a mixture of experts
count the router, the experts that a token is sent to and the shared one, whatever else a dispatch computes. Recurrences
count token by token, whatever a chunk computes: of a memory the products that write to it and read from it, a matrix
and a vector each time, and of a short convolution each of its factors.
"""

import dataclasses
import math
from typing import Any

import jax

from model.config import ModelConfig
from model.layers import Layer, by_stack, grouped
from model.transformer import abstract_params


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """How many parameters there are, by what they are for; `idle` are those of experts that a token does not use.

    Those of modules that predict tokens further on (`multi_token`) are used in training, and counted as such. As in
    published counts, load biases of routers are among them: state that no optimizer moves, and numbers of a checkpoint
    (DeepSeek-V3's 671,026,419,200 include 58 layers of 256).
    """

    embedding: int
    blocks: int
    final_norm: int
    unembedding: int
    multi_token: int = 0
    idle: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.blocks + self.final_norm + self.unembedding + self.multi_token

    @property
    def active(self) -> int:
        """Those that one token uses."""
        return self.total - self.idle

    @property
    def without_embedding(self) -> int:
        """All but the embeddings of tokens and positions: the N of scaling laws (Kaplan et al. 2020, section 2.1)."""
        return self.total - self.embedding


def count_parameters(config: ModelConfig) -> ParameterCount:
    """The exact number of parameters of a model. Raises UserError for options that clash."""
    tree = abstract_params(config)
    table = {name: part for name, part in tree["embedding"].items() if name in ("table", "norm")}
    groups, blocks, ahead = grouped(config.layers), tree["blocks"], tree.get("multi_token", {})
    idle = _idle(config.layers[-1], ahead["block"]) if ahead else 0
    for group in groups:
        stacks = by_stack(blocks, groups)
        idle += sum(_idle(layer, stacks[name]) for name, layer in zip(group.names, group.pattern, strict=True))
    return ParameterCount(
        embedding=_size(table) + _size(tree.get("position", {})),
        blocks=_size(blocks),
        final_norm=_size(tree.get("final_norm", {})),
        unembedding=_size(tree["embedding"]) - _size(table),
        multi_token=_size(ahead),
        idle=idle,
    )


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _idle(layer: Layer, block: Any) -> int:
    return 0 if layer.ffn is None else layer.ffn.idle(block["ffn"])


def forward_flops(config: ModelConfig, length: int) -> int:
    """Operations of one forward pass over one causal sequence of `length` tokens."""
    return sum(_of_layer(config, layer, length) for layer in config.layers) + _of_logits(config, length)


def _of_layer(config: ModelConfig, layer: Layer, length: int) -> int:
    sublayers = [part for part in (layer.attention, layer.ffn) if part is not None]
    stream = config.residual.cost(config.width, length, len(sublayers))
    return stream + sum(part.cost(config.width, length) for part in sublayers)


def _of_logits(config: ModelConfig, length: int) -> int:
    return config.unembedding.cost(config.width, config.vocab_size, length)


def training_flops(config: ModelConfig, length: int) -> int:
    """Operations of a forward and backward pass over one causal sequence of `length` tokens."""
    forward = forward_flops(config, length)
    if config.multi_token is not None:
        block, logits = _of_layer(config, config.layers[-1], length), _of_logits(config, length)
        forward += config.multi_token.cost(block, logits, config.width, length)
    return 3 * forward


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """The mean over a sequence of `length` tokens; times tokens per second this is the numerator of MFU."""
    return training_flops(config, length) / length
