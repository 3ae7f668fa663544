"""The time of a training step, from the loads of a chip and the constants of efficiency.py.

A product takes the longer of its operations at the attainable rate and its bytes at the memory's rate. Products,
attention, memory traffic and the optimizer follow each other, so their times add up. Transfers that nothing can hide
(tensor and expert parallelism) add up too. The others run beside the computation: a share of them stays exposed, and
all that is longer than the computation.
"""

import dataclasses
import math

import numpy as np

from train.parallel.planner.chips import Chip
from train.parallel.planner.collectives import Transfer
from train.parallel.planner.efficiency import (
    ATTENTION_SHARE,
    BACKWARD_SHARE,
    BLOCKING_SHARE,
    EXPOSED_SHARE,
    FITTED,
    GROUPED_SHARE,
    HBM_SHARE,
    LINKS_SHARE,
    NETWORK_SHARE,
    OLDER_BACKWARD,
    OLDER_FORWARD,
    TILE,
    Efficiency,
)
from train.parallel.planner.job import Job
from train.parallel.planner.loads import AttentionLoad, Loads, loads_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step.

    Attributes:
      products, attention, memory, optimizer: of computation: matrix products, attention kernels, traffic of operations
        between them, the update.
      waiting: of transfers that computation has to wait for.
      beside: of transfers that run beside computation; `exposed` of it is not hidden.
      bubble: of an idle pipeline.
      slices: of slices that wait for each other.
    """

    products: float
    attention: float
    memory: float
    optimizer: float
    waiting: float
    beside: float
    exposed: float
    bubble: float
    slices: float

    @property
    def computation(self) -> float:
        """The time of all computation."""
        return self.products + self.attention + self.memory + self.optimizer

    @property
    def total(self) -> float:
        """The time of the step."""
        return self.computation + self.waiting + self.exposed + self.bubble + self.slices

    def describe(self) -> str:
        """Returns one line: the share of each part in the step."""
        parts = {
            "products": self.products,
            "attention": self.attention,
            "memory traffic": self.memory,
            "optimizer": self.optimizer,
            "waiting for transfers": self.waiting,
            "transfers not hidden": self.exposed,
            "pipeline bubble": self.bubble,
            "slices": self.slices,
        }
        return ", ".join(f"{name} {100 * part / self.total:.0f}%" for name, part in parts.items() if part > 0)


def step_time(job: Job, constants: Efficiency = FITTED) -> StepTime:
    """Estimates the time of a job's step."""
    return time_of(loads_of(job), job.cluster.chip, job.cluster.slices, constants)


def time_of(loads: Loads, chip: Chip, slices: int, constants: Efficiency = FITTED) -> StepTime:
    """Estimates the time of a step with these loads on chips of a kind."""
    kind = chip.kind
    memory_rate = chip.hbm_rate * HBM_SHARE
    products = _products_time(loads, chip, constants, memory_rate)
    attention = sum(_attention_time(load, chip, constants) for load in loads.attention)
    traffic = constants.traffic * loads.elementwise + constants.dispatch * loads.dispatch + loads.scores
    memory, optimizer = traffic / memory_rate, loads.optimizer / memory_rate
    computed = products + attention + memory
    waiting = sum(_transfer_time(t, kind) for t in loads.transfers if not t.hidden)
    waiting *= BLOCKING_SHARE[kind]
    beside = sum(_transfer_time(t, kind) for t in loads.transfers if t.hidden)
    share = EXPOSED_SHARE[kind]
    exposed = share * beside + max(0.0, (1 - share) * beside - computed)
    bubble = loads.bubble * (computed + waiting)
    busy = computed + optimizer + waiting + exposed + bubble
    return StepTime(
        products=products,
        attention=attention,
        memory=memory,
        optimizer=optimizer,
        waiting=waiting,
        beside=beside,
        exposed=exposed,
        bubble=bubble,
        slices=busy * constants.waiting * math.log2(slices),
    )


def attainable(chip: Chip, number_format: str, grouped: bool, constants: Efficiency) -> float:
    """Returns operations a second of matrix products in a format; in one without support, those of bf16."""
    bf16 = chip.rate("bf16")
    rate = bf16 + constants.narrow * (chip.peak.get(number_format, bf16) - bf16)
    slower = GROUPED_SHARE if grouped else 1.0
    return rate * constants.matmul[chip.family] * slower


def _products_time(loads: Loads, chip: Chip, constants: Efficiency, memory_rate: float) -> float:
    total = 0.0
    for load in loads.products:
        rate = attainable(chip, load.number_format, load.grouped, constants)
        total += max(load.flops / rate, load.moved / memory_rate)
    return total


def _attention_time(load: AttentionLoad, chip: Chip, constants: Efficiency) -> float:
    """Kernels work on square tiles, so that a query computes some keys that it does not see."""
    shares = ATTENTION_SHARE[chip.family]
    share = float(np.interp(load.head_width, list(shares), list(shares.values())))
    tile = TILE[chip.kind]
    useful = load.pairs / (load.pairs + (tile / 2 if load.causal else tile))
    rate = chip.rate("bf16") * share * useful * constants.attention[chip.kind]
    older = load.older and chip.family in ("hopper", "blackwell")
    forward = load.forward / (OLDER_FORWARD if older else 1)
    backward = load.backward / (OLDER_BACKWARD if older else 1)
    return (forward + backward / BACKWARD_SHARE) / rate


def _transfer_time(transfer: Transfer, kind: str) -> float:
    return transfer.seconds / (NETWORK_SHARE if transfer.network == "network" else LINKS_SHARE[kind])
