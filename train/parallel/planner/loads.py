"""What one chip has to do in a step, counted: operations, bytes of memory traffic, transfers. Nothing here is fitted.

A product of m rows with a (k, n) matrix is made once forward and twice backward, and once more where its output is not
kept for the backward pass. Each time it takes 2 m k n operations and moves m k + k n + m n numbers. Arrays between
products are read and written too. With full rematerialisation a layer's last product is not made again: no derivative
needs its output.
"""

import dataclasses
import math

from train.parallel.planner.collectives import Transfer, held_parameters, transfers
from train.parallel.planner.job import Job
from train.parallel.planner.work import Attention, LayerWork, Product

LAST = "ffn_output"  # of a layer
# Bytes that one score of T x T moves where scores are arrays: float32 is written and read three times by the softmax of
# the forward pass (16), and its bfloat16 result written and read (4); the backward pass makes that again (16) and moves
# the derivatives of both (12). So do tiles of scores, which a loop of XLA makes one after the other.
SCORE_BYTES = 48
LOOP_TILE = 512  # the queries and the keys of such a tile


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProductLoad:
    """All executions of one product in a step.

    Attributes:
      flops: operations, sides padded to the matrix unit.
      moved: bytes between memory and chip.
      grouped: whether groups of rows, of any sizes, go to different matrices (experts without a capacity).
      number_format: of the factors.
    """

    flops: float
    moved: float
    grouped: bool
    number_format: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionLoad:
    """The attention of equal layers in a step, over visible pairs.

    Attributes:
      forward, backward: operations of the forward passes (two if it is computed again) and of the backward pass.
      head_width: the mean of the widths of keys and values.
      pairs: visible pairs of a query.
      causal: whether a query sees all earlier keys.
      older: whether the kernel is FlashAttention-2.
    """

    forward: float
    backward: float
    head_width: float
    pairs: float
    causal: bool
    older: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loads:
    """What one chip does in a step.

    Attributes:
      products: matrix products with weights.
      attention: of each kind of layer; empty where attention is products of arrays of scores.
      elementwise: bytes that operations between products read and write.
      scores: bytes of scores, where they are arrays.
      dispatch: bytes of tokens that are brought to their experts and back, on the chip.
      optimizer: bytes that the update reads and writes.
      transfers: between chips.
      bubble: the idle share of a pipeline: (stages - 1) / (virtual stages x micro-batches).
      model_flops: operations of the model a chip, by the convention of model/cost.py.
    """

    products: tuple[ProductLoad, ...]
    attention: tuple[AttentionLoad, ...]
    elementwise: float
    scores: float
    dispatch: float
    optimizer: float
    transfers: tuple[Transfer, ...]
    bubble: float
    model_flops: float


def loads_of(job: Job) -> Loads:
    """Counts the loads of a job on each of its chips."""
    ways, work, tokens = job.ways, job.work, job.chip_tokens
    products, attention = [_product_load(job, work.logits, 3 * work.logit_passes)], []
    products += [_product_load(job, product, 3) for product in work.outside]
    elementwise = scores = dispatch = 0.0
    for layer in work.layers:
        count = layer.repeats / ways.stage
        for product in layer.products:
            products.append(_product_load(job, product, count * passes(job, product.keeps)))
        if layer.attention is not None:
            if job.attention != "arrays" and not job.attention_loops:
                attention.append(_attention_load(job, layer.attention, count))
            else:
                products.append(_whole_attention(job, layer.attention, count))
                scores += _score_bytes(job, layer.attention, count)
        again = recomputed_share(job, layer)
        elementwise += count * tokens * (3 + again) * _stream_bytes(job, layer)
        dispatch += count * tokens / ways.tensor * (3 + again) * layer.expert_rows * 4 * work.width * job.compute_bytes
    elementwise += 4 * tokens * work.vocab / ways.tensor / ways.stage * 4 * work.logit_passes  # float32 logits
    held = held_parameters(job)
    return Loads(
        products=tuple(products),
        attention=tuple(attention),
        elementwise=elementwise,
        scores=scores,
        dispatch=dispatch,
        optimizer=held * (2 * (1 + job.moments) * job.parameter_bytes + 2 * job.gradient_bytes),
        transfers=tuple(transfers(job)),
        bubble=(ways.stage - 1) / (job.virtual_stages * job.microbatches),
        model_flops=3 * work.forward_flops * job.tokens / job.cluster.chips,
    )


def passes(job: Job, keeps: str) -> int:
    """Returns how often a product is made: forward, twice backward, and again if its output is needed and not kept."""
    return 3 if keeps in job.kept or keeps == LAST else 4


def recomputed_share(job: Job, layer: LayerWork) -> float:
    """Returns the share of a layer's operations that the backward pass makes again."""
    again = sum(p.flops for p in layer.products if passes(job, p.keeps) == 4)
    return again / sum(product.flops for product in layer.products)


def _product_load(job: Job, product: Product, times: float) -> ProductLoad:
    ways, unit = job.ways, job.cluster.chip.matrix_unit
    inputs, outputs = float(product.inputs), float(product.outputs)
    if product.keeps in ("mixer_output", "ffn_output"):
        inputs /= ways.tensor
    elif product.keeps != "latent":
        outputs /= ways.tensor
    rows = job.chip_tokens * product.slots
    if product.keeps == "":
        rows /= ways.stage  # outside the layers, which one stage alone makes
    padded = math.ceil(inputs / unit) * math.ceil(outputs / unit) * unit**2
    number_format = job.number_format if product.keeps not in ("", "router") else "bf16"
    width = job.compute_bytes if number_format == "bf16" else 1
    matrices = product.copies / (ways.expert if product.routed else 1) * job.microbatches
    moved = rows * (inputs * width + outputs * job.compute_bytes) + matrices * inputs * outputs * width
    return ProductLoad(
        flops=2 * rows * padded * times, moved=moved * times, grouped=product.ragged, number_format=number_format
    )


def _attention_load(job: Job, attention: Attention, count: float) -> AttentionLoad:
    flops = count * job.chip_tokens * attention.flops / job.ways.tensor
    return AttentionLoad(
        forward=flops * (1 if "attention" in job.kept else 2),
        backward=2.5 * flops,  # five products backward, two forward
        head_width=attention.head_width,
        pairs=attention.pairs,
        causal=attention.causal,
        older=job.attention == "older tiles",
    )


def _whole_attention(job: Job, attention: Attention, count: float) -> ProductLoad:
    """Attention as products of arrays of scores, of which queries do not see all."""
    flops = count * job.chip_tokens * attention.pair_flops * _scores_of_query(job, attention) / job.ways.tensor
    times = 3 if "attention" in job.kept else 4
    return ProductLoad(flops=flops * times, moved=0.0, grouped=False, number_format="bf16")


def _score_bytes(job: Job, attention: Attention, count: float) -> float:
    scores = count * job.chip_tokens * attention.heads * _scores_of_query(job, attention) / job.ways.tensor
    return scores * SCORE_BYTES


def _scores_of_query(job: Job, attention: Attention) -> float:
    """Returns the scores that are computed for a query: of all keys, or of the tiles with keys that it sees."""
    if not job.attention_loops:
        return job.work.length
    return min(job.work.length, attention.pairs + (LOOP_TILE / 2 if attention.causal else LOOP_TILE))


def _stream_bytes(job: Job, layer: LayerWork) -> float:
    """Bytes of a token that norms, sums, positions and activations of a layer read and write in a forward pass.

    Two norms read and write the stream (4 D) while they add to it (4 D); positions read and write queries and keys;
    an activation reads what its products wrote and writes the input of the next.
    """
    split = 0.0
    for product in layer.products:
        if product.keeps in ("query", "key"):
            split += 2 * product.outputs
        elif product.keeps in ("ffn_gate", "ffn_up"):
            split += product.outputs * product.slots
        elif product.keeps == "ffn_output":
            split += product.inputs * product.slots
    stream = 8 * job.work.width / (job.ways.tensor if job.stream_split else 1)
    return (stream + split / job.ways.tensor) * job.compute_bytes
