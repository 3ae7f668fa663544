"""Whether a model fits for inference, and how fast the memory lets it write: weights by format, caches, the bound.

At every step of decoding each chip reads its part of the weights that some row needs and of all rows' caches, once. No
kernel is faster than that: rows x chips' memory rates / bytes bounds the tokens a second (Pope et al. 2022,
"Efficiently Scaling Transformer Inference", section 2). The caches are those that the mixers themselves make
(`empty_cache`), so that grouped heads, windows, latents and recurrent states count as what they are.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax

from model.attention.cache import AttentionCache
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.experts import Experts
from model.layers import by_stack, group_layers
from model.parameters.specs import Spec
from model.stack import empty_caches
from model.transformer import abstract_params, specs
from model.vocabulary.embedding import Tied
from train.parallel.planner.chips import Cluster
from train.parallel.planner.job import BYTES
from train.parallel.planner.words import Plan, format_size
from train.terminal.formatting import format_count

# Bytes of a number of a matrix: int8 with a bfloat16 scale for each column, int4 with one for each 128 numbers.
FORMATS = {"bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
GROUP = 128
MANY_TOKENS = 1 << 24  # where a search for the longest context ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """A model's weights in one format, in bytes.

    Attributes:
      stored: of all of them.
      read: of those that one step of decoding reads.
    """

    stored: float
    read: float


def weights_of(config: ModelConfig, number_format: str, rows: int) -> Weights:
    """Counts the weights for inference of `rows` rows at a time.

    Only matrices of layers and of the logits are quantised; routers, tables of tokens, norms and biases are not. Of
    experts a step reads those that at least one row chose, if all are chosen alike.
    """
    stored = read = 0.0
    for leaf, spec, experts in _parameters(config):
        size = math.prod(leaf.shape) * _width(config, leaf, spec, number_format)
        stored += size
        if spec.role in ("embedding", "position") and not (
            spec.role == "embedding" and isinstance(config.unembedding, Tied)
        ):
            continue  # looked up
        chosen = 1.0
        if experts is not None and "expert" in spec.axes and spec.role != "router":
            chosen = 1 - (1 - experts.top_k / experts.num_experts) ** rows
        read += size * chosen
    return Weights(stored=stored, read=read)


def _parameters(config: ModelConfig) -> Iterator[tuple[jax.ShapeDtypeStruct, Spec, Experts | None]]:
    """Yields every parameter that inference uses, its spec, and the experts that it belongs to."""
    tree, table = abstract_params(config), specs(config)
    groups = group_layers(config.layers)
    stacks, stack_specs = by_stack(tree["blocks"], groups), by_stack(table["blocks"], groups)
    for group in groups:
        for name, layer in zip(group.stack_names, group.pattern, strict=True):
            experts = layer.ffn if isinstance(layer.ffn, Experts) else None
            for leaf, spec in zip(jax.tree.leaves(stacks[name]), jax.tree.leaves(stack_specs[name]), strict=True):
                yield leaf, spec, experts
    for part in tree.keys() - {"blocks", "multi_token"}:
        for leaf, spec in zip(jax.tree.leaves(tree[part]), jax.tree.leaves(table[part]), strict=True):
            yield leaf, spec, None


def _width(config: ModelConfig, leaf: jax.ShapeDtypeStruct, spec: Spec, number_format: str) -> float:
    """Returns the bytes of one number of a parameter, its share of a scale included."""
    if spec.traits.compute_dtype == "float32":
        return 4.0
    if not spec.inputs or (spec.role == "embedding" and not isinstance(config.unembedding, Tied)):
        return float(min(BYTES[config.precision.compute], BYTES[config.precision.parameters]))
    inputs = math.prod(leaf.shape[axis] for axis in spec.inputs)
    scale = {"bfloat16": 0.0, "int8": 2 / inputs, "int4": 2 / min(GROUP, inputs)}[number_format]
    return FORMATS[number_format] + scale


@functools.lru_cache(maxsize=256)
def row_bytes(config: ModelConfig, length: int) -> int:
    """Returns the bytes of the caches and states of one row that has `length` tokens."""
    caches = jax.eval_shape(lambda: empty_caches(config, 1, length))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))


def _kinds(config: ModelConfig, length: int) -> dict[str, tuple[int, int]]:
    """Returns the number of layers and the bytes of a row by kind of cache."""
    found: dict[str, tuple[int, int]] = {}
    caches = jax.eval_shape(lambda: empty_caches(config, 1, length))
    for cache in caches.values():
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
        kind = f"{type(cache).__name__}" + (f" of {cache.length:,} slots" if isinstance(cache, AttentionCache) else "")
        layers, before = found.get(kind, (0, 0))
        found[kind] = layers + 1, before + size
    return found


def longest_context(config: ModelConfig, rows: int, room: float) -> int:
    """Returns the most tokens that each of `rows` rows can have in `room` bytes of caches; 0 for none."""
    low, high = 0, 1
    while high < MANY_TOKENS and rows * row_bytes(config, high) <= room:
        low, high = high, 2 * high
    if high >= MANY_TOKENS:
        return MANY_TOKENS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rows * row_bytes(config, middle) <= room else (low, middle)
    return low


def serve_plan(config: ModelConfig, cluster: Cluster, rows: int, context: int) -> Plan:
    """Describes inference of `rows` rows of `context` tokens on a cluster.

    It fits if the weights, in the format of the config or a narrower one, and the caches fit. Raises UserError for a
    context that is longer than the model's.
    """
    if not 1 <= context <= config.context_length:
        raise UserError(f"--context={context}: the model reads 1 to {config.context_length:,} tokens")
    memory = cluster.chip.hbm * cluster.chips
    cache = rows * row_bytes(config, context)
    logits = 4.0 * rows * config.vocab_size
    growth = row_bytes(config, context) - row_bytes(config, max(1, context - 1))
    lines = [f"inference on {cluster}: {cluster.chips:,} chips, {_rows(rows)} of {context:,} tokens", ""]
    lines += ["caches of a row"]
    for kind, (layers, size) in _kinds(config, context).items():
        lines.append(f"  {layers:3} layers  {kind:32} {format_size(size):>11}")
    lines += [f"  {'all':43} {format_size(cache / rows):>11}, {format_count(growth)}B for one token more", ""]
    lines += [f"{'weights':10} {'stored':>12} {'with caches':>12} {'of':>12}  verdict"]
    fits, speeds = False, []
    for number_format in FORMATS:
        weights = weights_of(config, number_format, rows)
        total = weights.stored + cache + logits
        left = memory - weights.stored - logits
        fits = fits or total <= memory
        lines.append(
            f"{number_format:10} {format_size(weights.stored):>12} {format_size(total):>12} {format_size(memory):>12}  "
            + _verdict(config, rows, context, memory - total, left)
        )
        speeds.append(_speed(number_format, weights, cache, rows, cluster))
    lines += ["", "bound by memory traffic", *speeds, "", "assumptions", *(f"  {line}" for line in ASSUMPTIONS)]
    return Plan(lines=tuple(lines), fits=fits)


def _verdict(config: ModelConfig, rows: int, context: int, spare: float, left: float) -> str:
    """Returns whether it fits, and the rows and tokens that would."""
    most_rows = max(0, int(left // row_bytes(config, context)))
    longest = longest_context(config, rows, left)
    ends = f"{_rows(rows)} of " + (
        f"any of {MANY_TOKENS:,} tokens" if longest >= MANY_TOKENS else f"{longest:,} tokens"
    )
    found = f"{_rows(most_rows)} of {context:,} tokens ({most_rows * context:,} tokens), or {ends}"
    if spare >= 0:
        return f"fits; room for {found}"
    if most_rows == 0:
        return f"does not fit: {format_size(-spare)} too much"
    return f"does not fit: {format_size(-spare)} too much; {found} would"


def _rows(number: int) -> str:
    return f"{number:,} row{'s' if number != 1 else ''}"


def _speed(number_format: str, weights: Weights, cache: float, rows: int, cluster: Cluster) -> str:
    seconds = (weights.read + cache) / (cluster.chips * cluster.chip.hbm_rate)
    return (
        f"  {number_format:10} {format_size(weights.read):>12} of weights and {format_size(cache)} of caches a step: "
        f"{1e3 * seconds:,.2f} ms, {1 / seconds:,.1f} tokens/s a row, {rows / seconds:,.0f} in all"
    )


ASSUMPTIONS = (
    "weights and caches are split evenly over the chips; a model with fewer key and value heads than chips keeps "
    "copies of caches, unless its rows are split too",
    "matrices of layers and of logits have the format; tables of tokens, routers, norms and the caches keep theirs",
    "the bound counts reading weights and caches once a step at the data sheet's rate; operations, transfers between "
    "chips and the text's first reading (prefill) come on top",
)
