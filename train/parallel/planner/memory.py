"""Bytes of memory that a training step needs on one chip, at its fullest moment: the backward pass of a layer.

An estimate from counted arrays, not a compiler's: it adds what must live at that moment, and knows nothing of padding,
fragmentation or arrays that a compiler keeps longer.
"""

import dataclasses

from train.parallel.planner.collectives import held_parameters, local_parameters
from train.parallel.planner.job import Job
from train.parallel.planner.work import LayerWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one chip.

    Attributes:
      parameters, moments, gradients: a chip's part of each.
      gathered: the weights of one layer, and their gradient before it is scattered.
      kept: what all layers keep for the backward pass: their inputs, and the products that `Job.kept` names.
      layer: the arrays of the layer whose backward pass runs.
      logits: logits and their gradient, of one chunk of each device, in float32.
    """

    parameters: float
    moments: float
    gradients: float
    gathered: float
    kept: float
    layer: float
    logits: float

    @property
    def total(self) -> float:
        """The bytes at the fullest moment; logits are gone when the layers' backward passes run."""
        state = self.parameters + self.moments + self.gradients
        return state + self.kept + max(self.gathered + self.layer, self.logits)


def memory_of(job: Job) -> Memory:
    """Estimates the memory of a job on each of its chips."""
    ways, work = job.ways, job.work
    held = held_parameters(job)
    tokens = job.chip_tokens / job.microbatches
    # A pipeline keeps all micro-batches until the backward pass, and the inputs of stages that wait.
    in_flight = job.microbatches + (ways.stage - 1) / job.virtual_stages if ways.stage > 1 else 1
    kept = sum(layer.repeats * _kept_numbers(job, layer) for layer in work.layers) / ways.stage
    largest = max(work.layers, key=lambda layer: _layer_numbers(job, layer))
    logits = min(tokens * work.vocab / ways.tensor, job.logits_limit * job.cluster.chip.devices)
    return Memory(
        parameters=held * job.parameter_bytes,
        moments=held * job.moments * job.parameter_bytes,
        gradients=held * job.gradient_bytes,
        gathered=_gathered(job),
        kept=kept * tokens * in_flight * job.compute_bytes,
        layer=_layer_numbers(job, largest) * tokens * job.compute_bytes,
        logits=2 * 4 * logits,
    )


def _gathered(job: Job) -> float:
    """The bytes that each device of the chip gathers, and of their gradient: one layer, or all of a pipeline stage."""
    ways = job.ways
    if ways.fsdp * ways.expert * ways.context == 1:
        return 0.0
    if ways.stage > 1:  # weights stay gathered, and gradients whole, from the first micro-batch to the last
        return sum(local_parameters(job)) * (job.compute_bytes + job.gradient_bytes)
    largest = max(
        (layer.parameters - layer.expert_parameters) + layer.expert_parameters / ways.expert
        for layer in job.work.layers
    )
    return largest / ways.tensor * (job.compute_bytes + job.gradient_bytes) * job.cluster.chip.devices


def _kept_numbers(job: Job, layer: LayerWork) -> float:
    """Numbers that one layer keeps for each token: its input, and each product that is kept."""
    stream = job.work.width / (job.ways.tensor if job.stream_split else 1)
    numbers = stream
    for product in layer.products:
        if product.keeps in job.kept:
            whole = product.keeps in ("mixer_output", "ffn_output")
            numbers += stream if whole else product.outputs * product.slots / job.ways.tensor
        if product.keeps == "ffn_output" and "between" in job.kept:
            numbers += product.inputs * product.slots / job.ways.tensor  # the hidden layer
    if "between" in job.kept:
        numbers += 3 * stream  # two norms, and the sum between them
    if layer.attention is not None and "attention" in job.kept:
        numbers += _heads_width(layer) / job.ways.tensor
    return numbers


def _layer_numbers(job: Job, layer: LayerWork) -> float:
    """Numbers of a token that live in the backward pass of one layer.

    The outputs of all products, the hidden layer after its activation, and four streams: two norms, the sum between the
    sublayers and the gradient.
    """
    stream = job.work.width / (job.ways.tensor if job.stream_split else 1)
    numbers = 4 * stream
    for product in layer.products:
        if product.keeps in ("mixer_output", "ffn_output"):
            numbers += stream * product.slots
        else:
            numbers += product.outputs * product.slots / job.ways.tensor
        if product.keeps == "ffn_output":
            numbers += product.inputs * product.slots / job.ways.tensor
    if job.attention == "arrays" and layer.attention is not None:
        numbers += 2 * layer.attention.heads * job.work.length / job.ways.tensor
    return numbers


def _heads_width(layer: LayerWork) -> float:
    """The width of all heads' outputs: the inputs of the output projection."""
    return sum(product.inputs for product in layer.products if product.keeps == "mixer_output")
