"""Exact counts of a model's parameters and floating-point operations, summed over its mechanisms.

Parameters are counted from the abstract tree. The `cost` of each option counts the operations of its mechanism.

Convention. A multiplication with its addition counts as 2. The matrix products of a forward pass are counted: the
projections, the feed-forward layer, the logits, and the two products of attention over all pairs of a query and a key
that it may see. A causal sequence of T tokens has T (T + 1) / 2 pairs, not T^2, and fewer with a sliding window. In an
encoder a pair of two tokens counts in both directions; prefixes, which differ from text to text, count as causal. Not
counted are look-ups, norms, activations, softmax, the optimizer, and recomputation by rematerialisation. The backward
pass has two products for each product of the forward pass, so training counts three times the forward pass; it includes
the modules that predict tokens further ahead, which run over all T tokens and only in training. These are the
"model FLOPs" of Chowdhery et al. 2022 ("PaLM", appendix B) with causal attention counted once. A mixture of experts
counts the router, the experts of each token and the shared expert, but no additional work of its dispatch. Recurrent
mixers count token by token, even if they compute in chunks: for a memory, the matrix-vector products that write to it
and read from it; for a short convolution, each of its multiplications.

The gradient of a frozen matrix is not computed, so its product is not counted. The product for the gradient of the
matrix's input is always counted, even if nothing before the matrix is trained. So are all products with parameters that
are no matrices by their specs: filters of convolutions, and weights of hyper-connections.
"""

import dataclasses
import math
from typing import Any

import jax

from model.config import ModelConfig
from model.interfaces import AttentionOption
from model.layers import Layer, by_stack, group_layers
from model.parameters.specs import partition
from model.transformer import abstract_params
from model.transformer import specs as specs_of_model
from model.vocabulary.embedding import Tied

EMBEDDED = ("position", "token_types", "input_norm")  # parts of the model that its embedding is made with


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """The number of parameters in each part of a model; `inactive` counts those of experts that a token does not use.

    `adapters` counts trained changes of low rank to matrices: they are part of the total, and without a frozen matrix.
    `encoder` counts the layers that read a source; cross-attention to it is a part of the blocks.
    `multi_token` counts the modules that predict tokens further ahead, which training uses: they are part of the total,
    and so are `score_head` and `pooler`, whose operations are not counted: one token a text passes through it.
    As in published counts, the load biases of routers are part of it too: no optimizer updates them, but a checkpoint
    has them (DeepSeek-V3's 671,026,419,200 include 58 layers of 256).
    """

    embedding: int
    blocks: int
    final_norm: int
    unembedding: int
    encoder: int = 0
    multi_token: int = 0
    score_head: int = 0
    pooler: int = 0
    adapters: int = 0
    inactive: int = 0

    @property
    def total(self) -> int:
        """The number of all parameters."""
        heads = self.unembedding + self.multi_token + self.score_head + self.pooler
        return self.embedding + self.encoder + self.blocks + self.final_norm + heads + self.adapters

    @property
    def active(self) -> int:
        """The number of parameters that one token uses."""
        return self.total - self.inactive

    @property
    def without_embedding(self) -> int:
        """The total without embeddings of tokens and positions: N in scaling laws (Kaplan et al. 2020, section 2.1)."""
        return self.total - self.embedding


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Returns the exact number of parameters of a model. Raises UserError for options that clash."""
    config = config.unquantized()
    whole = abstract_params(config)
    tree, adapters = partition(whole, specs_of_model(config), lambda _, spec: spec.role not in ("adapter", "magnitude"))
    table = {name: part for name, part in tree["embedding"].items() if not name.startswith("output")}
    vectors = tree.get("per_layer", {})
    return ParameterCount(
        embedding=_count([table, vectors.get("table", ()), *(tree.get(name, {}) for name in EMBEDDED)]),
        blocks=_count((tree["blocks"], tree.get("position_bias", ())))
        + _count({k: v for k, v in vectors.items() if k != "table"}),
        encoder=_count(tree.get("encoder", {})),
        final_norm=_count(tree.get("final_norm", {})),
        unembedding=_count(tree["embedding"]) - _count(table) + _count(tree.get("head", {})),
        multi_token=_count(tree.get("multi_token", {})),
        score_head=_count(tree.get("score_head", {})),
        pooler=_count(tree.get("pooler", {})),
        adapters=_count(adapters),
        inactive=_count_inactive(config, tree),
    )


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _inactive(layer: Layer, block: Any) -> int:
    return 0 if layer.ffn is None else layer.ffn.inactive_parameters(block.get("ffn", {}))


def _count_inactive(config: ModelConfig, tree: Any) -> int:
    """Counts the parameters in a tree, or in a part of it, of experts that a token does not use."""
    groups = group_layers(config.layers)
    stacks = by_stack(tree.get("blocks", {}), groups)
    inactive = _inactive(config.layers[-1], tree.get("multi_token", {}).get("block", {}))
    for group in groups:
        layers = zip(group.stack_names, group.pattern, strict=True)
        inactive += sum(_inactive(layer, stacks.get(name, {})) for name, layer in layers)
    return inactive


def forward_flops(config: ModelConfig, length: int) -> int:
    """Counts the operations of one forward pass over one causal sequence of `length` tokens.

    With an encoder, the sequence has a source of the greatest length.
    """
    layers = sum(_layer_flops(config, layer, length) for layer in config.layers)
    option = config.per_layer_embedding
    vectors = 0 if option is None else option.cost(config.width, config.num_layers, length)
    adapters = _adapter_flops(config, length, ("embedding", "blocks", "per_layer"))
    if (encoder := config.encoder) is not None:
        layers += encoder.cost(config, length, encoder.context_length)
        adapters += _adapter_flops(config, encoder.context_length, ("encoder",))
    return _projection_flops(config, length) + layers + vectors + _logits_flops(config, length) + adapters


def _adapter_flops(config: ModelConfig, length: int, parts: tuple[str, ...]) -> int:
    """Counts the operations with the factors of adapters in some parts of the model."""
    if config.adapters is None:
        return 0
    factors, _ = partition(abstract_params(config), specs_of_model(config), lambda _, spec: spec.role == "adapter")
    return 2 * length * _count([factors.get(part, ()) for part in parts])


def _layer_flops(config: ModelConfig, layer: Layer, length: int) -> int:
    sublayers = [part for part in (layer.mixer, layer.ffn) if part is not None]
    stream = config.residual.cost(config.width, length, len(layer.sublayers))
    later = 0
    if not config.visibility.decodes and isinstance(layer.mixer, AttentionOption):
        later = layer.mixer.cost_of_later_keys(config.width, length)
    return stream + later + sum(part.cost(config.width, length) for part in sublayers)


def _logits_flops(config: ModelConfig, length: int) -> int:
    width = config.width if config.embedding_width is None else config.embedding_width
    head = 0 if config.prediction_head is None else config.prediction_head.cost(config.width, length)
    return head + _projection_flops(config, length) + config.unembedding.cost(width, config.vocab_size, length)


def _projection_flops(config: ModelConfig, length: int) -> int:
    """Counts the operations between the stream and a narrower token table, in one direction."""
    return 0 if config.embedding_width is None else 2 * length * config.width * config.embedding_width


def training_flops(config: ModelConfig, length: int, specs: Any = None) -> int:
    """Counts the operations of a forward and backward pass over one causal sequence.

    Args:
      config: the model's options.
      length: the number of tokens.
      specs: the tree of the parameters' specs, in which the frozen ones are marked; None if none is frozen.
    """
    forward = forward_flops(config, length)
    if config.multi_token is not None:
        block, logits = _layer_flops(config, config.layers[-1], length), _logits_flops(config, length)
        block += _projection_flops(config, length)  # of the token that a module reads
        forward += config.multi_token.cost(block, logits, config.width, length)
        forward += _adapter_flops(config, length, ("multi_token",))
    if config.score_head is not None:
        forward += config.score_head.cost(config.width, length)
    frozen = 0 if specs is None else _frozen_factors(config, specs)
    return 3 * forward - 2 * length * frozen


def _frozen_factors(config: ModelConfig, specs: Any) -> int:
    """Counts the elements of frozen matrices by which each token is multiplied."""
    if config.precision.weights is not None:  # adapters have frozen all matrices
        config = config.unquantized()
        specs = specs_of_model(config)
    tree, _ = partition(abstract_params(config), specs, lambda _, spec: spec.frozen and bool(spec.inputs))
    layers = {part: tree[part] for part in ("blocks", "multi_token") if part in tree}
    scores = [tree.get(name, {}) for name in ("score_head", "head")]
    vectors = {name: x for name, x in tree.get("per_layer", {}).items() if name != "table"}
    logits = "table" if isinstance(config.unembedding, Tied) else "output"
    used = [tree.get("embedding", {}).get(name) for name in (logits, "input_projection", "output_projection")]
    uses = 1 if config.multi_token is None else 1 + config.multi_token.depth
    whole = _count(layers) + _count(vectors) + _count(scores)
    return whole - _count_inactive(config, layers) + uses * _count(used)


def training_flops_per_token(config: ModelConfig, length: int, specs: Any = None) -> float:
    """Returns the mean per token of `training_flops`; times tokens per second, this is the numerator of MFU."""
    return training_flops(config, length, specs) / length
