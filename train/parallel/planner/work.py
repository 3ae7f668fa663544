"""The work of one training step of a model, read from its options and from the specs of its parameters.

Every matrix of the model is one product: its spec says which axes a product contracts. Attention adds the products over
pairs of a query and a key, which are the part of a mixer's cost that grows faster than the sequence.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from model.attention.patterns import Everything
from model.config import ModelConfig
from model.feedforward.dispatch import Capacity, Dropless
from model.feedforward.experts import Experts
from model.interfaces import AttentionOption
from model.layers import Layer, by_stack, group_layers
from model.parameters.specs import Spec
from model.recompute import Remat, saved_taps
from model.transformer import abstract_params, specs

# What a layer may keep for the backward pass, by the taps of model/taps/meanings.py where a tap is that product.
KEPT = ("query", "key", "value", "latent", "attention", "mixer_output", "ffn_gate", "ffn_up", "ffn_output")
_TAPS = {"mixer_heads": "attention"}  # taps under another name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """A matrix product of every token.

    Attributes:
      keeps: its output, as a name of `KEPT`; "router" and "other" for outputs that have none, "" outside the layers.
      inputs, outputs: the sides of the matrix.
      copies: matrices of this kind in a layer: experts, or heads of a recurrent matrix.
      rows: how many of the copies a token uses.
      routed: whether the copies are experts, of which a token uses some.
      slots: how many rows are multiplied for a token: above `rows` where experts have a fixed capacity.
      ragged: whether the copies get different numbers of rows.
    """

    keeps: str
    inputs: int
    outputs: int
    copies: int = 1
    rows: float = 1.0
    routed: bool = False
    slots: float = 1.0
    ragged: bool = False

    @property
    def parameters(self) -> int:
        """The number of parameters in all copies."""
        return self.inputs * self.outputs * self.copies

    @property
    def flops(self) -> float:
        """The operations of one token."""
        return 2 * self.inputs * self.outputs * self.rows


class Routing(NamedTuple):
    """How tokens meet experts: see `Product`."""

    rows: float
    slots: float
    ragged: bool


_NO_EXPERTS = Routing(rows=1.0, slots=1.0, ragged=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """The products of queries, keys and values of one layer.

    Attributes:
      heads: N.
      pair_flops: the operations of all heads for one visible pair of a query and a key.
      pairs: the visible pairs of a query, the mean over the sequence.
      causal: whether a query sees all earlier keys.
    """

    heads: int
    pair_flops: int
    pairs: float
    causal: bool

    @property
    def head_width(self) -> float:
        """The mean of the widths of a key and of a value."""
        return self.pair_flops / (4 * self.heads)

    @property
    def flops(self) -> float:
        """The operations of one token in the forward pass, over visible pairs."""
        return self.pair_flops * self.pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerWork:
    """The work of equal layers.

    Attributes:
      repeats: the number of layers.
      products: of each token.
      attention: None for a recurrent mixer or none.
      other_flops: the operations of one token in neither (recurrences).
      parameters: in one layer; of these, `expert_parameters` in routed experts.
      expert_rows: experts of a token; 0 without experts.
      key_width: the widths of a token's keys and values together.
    """

    repeats: int
    products: tuple[Product, ...]
    attention: Attention | None
    other_flops: float
    parameters: int
    expert_parameters: int
    expert_rows: float
    key_width: int

    @property
    def flops(self) -> float:
        """The operations of one token in the forward pass of one layer."""
        attention = self.attention.flops if self.attention else 0.0
        return sum(product.flops for product in self.products) + attention + self.other_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelWork:
    """The work of a model at one sequence length.

    Attributes:
      width: D.
      vocab: V.
      length: T.
      layers: all layers, in groups of equal ones.
      outside: products outside the layers, such as those between the stream and a narrower token table; not logits.
      logits: the product with the unembedding.
      logit_passes: how often logits are computed for each token (more than once with multi-token prediction).
      outer_parameters: outside the layers: embedding, unembedding, positions, norms.
    """

    width: int
    vocab: int
    length: int
    layers: tuple[LayerWork, ...]
    outside: tuple[Product, ...]
    logits: Product
    logit_passes: int
    outer_parameters: int

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return sum(layer.repeats * layer.parameters for layer in self.layers) + self.outer_parameters

    @property
    def num_layers(self) -> int:
        """L, with the layers of modules for multi-token prediction."""
        return sum(layer.repeats for layer in self.layers)

    @property
    def forward_flops(self) -> float:
        """The operations of one token in the forward pass."""
        layers = sum(layer.repeats * layer.flops for layer in self.layers)
        outside = sum(product.flops for product in self.outside)
        return layers + outside + self.logit_passes * self.logits.flops


def kept_by(remat: Remat) -> frozenset[str]:
    """Returns the products that a layer keeps for the backward pass; it always keeps its input.

    The name "between" stands for what the operations between products write.
    """
    if remat == "none":
        return frozenset(KEPT) | {"between"}
    if remat == "dots":  # products of weights, and not those of attention
        return frozenset(KEPT) - {"attention"}
    return frozenset(_TAPS.get(tap, tap) for tap in saved_taps(remat)) & frozenset(KEPT)


def work_of(config: ModelConfig, length: int) -> ModelWork:
    """Returns the work of a model on sequences of `length` tokens. Raises UserError for options that clash."""
    tree, table = abstract_params(config), specs(config)
    groups = group_layers(config.layers)
    stacks, stack_specs = by_stack(tree["blocks"], groups), by_stack(table["blocks"], groups)
    layers = []
    for group in groups:
        for name, layer in zip(group.stack_names, group.pattern, strict=True):
            layers.append(_layer_work(config, layer, length, stacks[name], stack_specs[name], group.repeats))
    depth = 0 if config.multi_token is None else config.multi_token.depth
    if depth:
        layers.append(dataclasses.replace(layers[-1], repeats=depth))
    width = config.width if config.embedding_width is None else config.embedding_width
    rest = {name: part for name, part in tree.items() if name not in ("blocks", "multi_token")}
    return ModelWork(
        width=config.width,
        vocab=config.vocab_size,
        length=length,
        layers=tuple(layers),
        outside=tuple(_outside(rest, {name: table[name] for name in rest})),
        logits=Product(keeps="", inputs=width, outputs=config.vocab_size),
        logit_passes=1 + depth,
        outer_parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(rest)),
    )


def _outside(tree: Any, table: Any) -> Iterator[Product]:
    """Yields the products with matrices that are no tables of tokens or positions."""
    for leaf, spec in zip(jax.tree.leaves(tree), jax.tree.leaves(table), strict=True):
        if spec.inputs and spec.role not in ("embedding", "unembedding", "position"):
            shape, axes = _of_one_layer(leaf, spec)
            yield dataclasses.replace(_product("", shape, axes, spec, _NO_EXPERTS), keeps="")


def _layer_work(config: ModelConfig, layer: Layer, length: int, stack: Any, table: Any, repeats: int) -> LayerWork:
    ffn = layer.ffn
    routing = _routing(ffn, length)
    products, parameters, key_width = [], 0, 0
    for part in stack:
        named = zip(jax.tree.leaves(stack[part]), jax.tree.leaves(table[part]), strict=True)
        for leaf, spec in named:
            shape, axes = _of_one_layer(leaf, spec)
            parameters += math.prod(shape.values())
            if spec.inputs:
                product = _product(part, shape, axes, spec, routing)
                products.append(product)
                if product.keeps in ("key", "value"):
                    key_width += product.outputs
    attention = _attention(layer, config.width, length)
    counted = attention.flops if attention else 0.0
    counted += sum(p.flops for p in products if p.keeps not in _NOT_OF_MIXERS)
    mixer = 0.0 if layer.mixer is None else layer.mixer.cost(config.width, length) / length
    return LayerWork(
        repeats=repeats,
        products=tuple(products),
        attention=attention,
        other_flops=max(0.0, mixer - counted),
        parameters=parameters,
        expert_parameters=sum(p.parameters for p in products if p.routed),
        expert_rows=routing.rows if isinstance(ffn, Experts) else 0.0,
        key_width=key_width,
    )


_NOT_OF_MIXERS = ("ffn_gate", "ffn_up", "ffn_output", "router", "other")


def _of_one_layer(leaf: Any, spec: Spec) -> tuple[dict[int, int], dict[int, str | None]]:
    """Returns the sizes and names of a parameter's axes by their numbers, without the axis of layers."""
    kept = [i for i, axis in enumerate(spec.axes) if axis != "layer"]
    return {i: leaf.shape[i] for i in kept}, {i: spec.axes[i] for i in kept}


def _product(part: str, shape: dict[int, int], axes: dict[int, str | None], spec: Spec, routing: Routing) -> Product:
    inputs = math.prod(shape[i] for i in spec.inputs)
    outputs = math.prod(shape[i] for i in spec.outputs)
    copies = math.prod(shape.values()) // (inputs * outputs)
    routed = "expert" in axes.values() and spec.role != "router"
    names = {axes[i] for i in spec.outputs}
    return Product(
        keeps=_kept_name(part, spec.role, names),
        inputs=inputs,
        outputs=outputs,
        copies=copies,
        rows=routing.rows if routed else float(copies),
        routed=routed,
        slots=routing.slots if routed else float(copies),
        ragged=routed and routing.ragged,
    )


def _kept_name(part: str, role: str, outputs: set[str | None]) -> str:
    """Returns the name of a matrix's output, as in `Product`, from its role and the axes of its output."""
    if part not in ("mixer", "ffn"):
        return "other"
    if part == "ffn":
        return {"residual": "ffn_output", "value": "ffn_up", "router": "router"}.get(role, "ffn_gate")
    if role == "residual":
        return "mixer_output"
    if "rank" in outputs:
        return "latent"
    if role == "value":
        return "value"
    return "query" if "heads" in outputs else "key"


def _routing(ffn: Any, length: int) -> Routing:
    """Returns how tokens meet the experts of a layer."""
    if not isinstance(ffn, Experts):
        return _NO_EXPERTS
    slots = float(ffn.top_k)
    if isinstance(ffn.dispatch, Capacity):
        slots = ffn.num_experts * ffn.dispatch.slots(ffn.num_experts, ffn.top_k, length) / length
    return Routing(rows=float(ffn.top_k), slots=slots, ragged=isinstance(ffn.dispatch, Dropless))


def _attention(layer: Layer, width: int, length: int) -> Attention | None:
    mixer = layer.mixer
    if not isinstance(mixer, AttentionOption):
        return None
    whole = dataclasses.replace(mixer, pattern=Everything())
    return Attention(
        heads=mixer.num_heads,
        pair_flops=whole.cost(width, 2) - 2 * whole.cost(width, 1),  # 3 pairs less 2 times 1 pair
        pairs=mixer.pattern.num_visible_pairs(length) / length,
        causal=isinstance(mixer.pattern, Everything),
    )
