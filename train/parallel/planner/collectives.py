"""Bytes that a chip receives in a step, by mesh axis and purpose, and their time on the links of the cluster.

FSDP gathers the weights of a layer for the forward and for the backward pass, and scatters the sum of gradients:
Rajbhandari et al. 2020, "ZeRO", section 7. Tensor parallelism reduces the output of each sublayer: Shoeybi et al. 2019,
"Megatron-LM", section 3. An all-reduce among n receives 2 (n - 1) / n of the array, a gather or a scatter (n - 1) / n.
"""

import dataclasses
import math
from typing import Literal

from train.parallel.planner.chips import Cluster, Switched, Torus
from train.parallel.planner.job import Job

# From the innermost axis to the outermost: an inner axis has neighbours closer together.
INNER_FIRST = ("tensor", "context", "expert", "fsdp", "data", "stage")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """Bytes that one chip receives in one step.

    Attributes:
      axis: the mesh axis; "slices" for the part between slices.
      purpose: the reason.
      received: bytes.
      seconds: the time at the rates of the data sheet.
      network: "links" (a torus, or the switch of a node) or "network" (between slices or nodes).
      hidden: whether other layers' computation can run meanwhile; otherwise the next operation waits for it.
    """

    axis: str
    purpose: str
    received: float
    seconds: float
    network: Literal["links", "network"]
    hidden: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """How the chips of one mesh axis are connected.

    Attributes:
      size: chips along the axis.
      rate: bytes a second that one chip can receive in a gather, a scatter or a reduction.
      exchange_rate: the same when every chip sends something else to every other (all-to-all).
      network: the network that limits it.
      local: how many chips of the axis the fast network connects.
    """

    size: int
    rate: float
    exchange_rate: float
    network: Literal["links", "network"]
    local: int


def routes(job: Job) -> dict[str, Route]:
    """Returns the connection of every mesh axis, inside one slice, by the axis's name."""
    sizes = {name: getattr(job.ways, name) for name in INNER_FIRST}
    sizes[job.across_slices] //= job.cluster.slices
    chip = job.cluster.chip
    if isinstance(chip.interconnect, Torus):
        return _torus_routes(job.cluster, chip.interconnect, sizes)
    return _switched_routes(job.cluster, chip.interconnect, sizes)


def _torus_routes(cluster: Cluster, torus: Torus, sizes: dict[str, int]) -> dict[str, Route]:
    """Gives dimensions of the torus to axes, whole ones where they fit; a ring has two links, a line has one."""
    free = dict(enumerate(cluster.shape))
    found = {}
    for name in INNER_FIRST:
        left, links, hops = sizes[name], 0, 0.0
        whole_first = sorted(free, key=lambda number: (left % free[number] != 0, -free[number]))
        for number in whole_first:
            part = math.gcd(left, free[number])
            if part == 1:
                continue
            ring = part == cluster.shape[number] and part % torus.ring == 0
            links += 2 if ring else 1
            hops += part / 4 if ring else part / 3  # the mean distance of two chips along it
            left //= part
            free[number] //= part
        links = max(links, 1)
        rate = links * torus.link
        found[name] = Route(
            size=sizes[name], rate=rate, exchange_rate=rate / max(hops, 1.0), network="links", local=sizes[name]
        )
    return found


def _switched_routes(cluster: Cluster, switch: Switched, sizes: dict[str, int]) -> dict[str, Route]:
    """Fills nodes from the innermost axis; GPUs of a node share their adapters in a collective of all of them."""
    inner, found = 1, {}
    for name in INNER_FIRST:
        size = sizes[name]
        room = max(1, cluster.shape[1] // inner)
        local = math.gcd(size, room)
        inside = local == size
        network = cluster.chip.network
        rate = switch.link if inside else min(switch.link, network * local)
        exchange = switch.link if inside else network
        kind: Literal["links", "network"] = "links" if inside else "network"
        found[name] = Route(size=size, rate=rate, exchange_rate=exchange, network=kind, local=local)
        inner *= size
    return found


def transfers(job: Job) -> list[Transfer]:
    """Returns all transfers of a step that move anything."""
    found = [*_parameter_transfers(job), *_activation_transfers(job)]
    return [transfer for transfer in found if transfer.received > 0]


def local_parameters(job: Job) -> tuple[float, float]:
    """Returns the parameters of a chip's stage and tensor part before FSDP splits them: all but experts', experts'."""
    ways, work = job.ways, job.work
    experts = sum(layer.repeats * layer.expert_parameters for layer in work.layers)
    rest = work.parameters - experts
    return rest / (ways.tensor * ways.stage), experts / (ways.tensor * ways.stage * ways.expert)


def held_parameters(job: Job) -> float:
    """Returns the parameters that one chip holds: its part of `local_parameters`."""
    ways, (rest, experts) = job.ways, local_parameters(job)
    return (rest / ways.expert + experts) / (ways.fsdp * ways.context)


def _parameter_transfers(job: Job) -> list[Transfer]:
    ways, route = job.ways, routes(job)
    rest, experts = local_parameters(job)
    found = []
    for name, gathered in (
        ("fsdp", (rest / ways.expert + experts) / ways.context),
        ("context", rest / ways.expert + experts),
        ("expert", rest),
    ):
        size = route[name].size
        # A pipeline keeps its weights gathered from the first micro-batch to the last.
        moved = gathered * (size - 1) / size * (job.microbatches if ways.stage == 1 else 1)
        for purpose, width in (
            ("gathers of weights, forward and backward", 2 * job.compute_bytes),
            ("scatters of gradients", job.gradient_bytes),
        ):
            found.append(_transfer(name, purpose, moved * width, route[name], hidden=True))
    held = held_parameters(job)
    if job.across_slices == "fsdp":
        held *= job.cluster.slices  # a chip's part inside its slice
    size = route["data"].size
    reduced = 2 * (size - 1) / size * held * job.gradient_bytes
    found.append(_transfer("data", "all-reduce of gradients", reduced, route["data"], hidden=False))
    return [*found, *_slice_transfers(job, held)]


def _slice_transfers(job: Job, held: float) -> list[Transfer]:
    """What parameters send between slices; a chip holds `held` of them inside its slice."""
    slices, between = job.cluster.slices, _between_slices(job)
    if slices == 1 or job.across_slices == "stage":
        return []
    if job.across_slices == "fsdp":
        received = held * (slices - 1) / slices * job.microbatches * (2 * job.compute_bytes + job.gradient_bytes)
        return [_transfer("slices", "gathers and scatters between slices", received, between, hidden=True)]
    copies = job.ways.data // slices  # inside a slice, which share the reduction
    received = 2 * (slices - 1) / slices * held / copies * job.gradient_bytes
    return [_transfer("slices", "all-reduce of gradients between slices", received, between, hidden=True)]


def _between_slices(job: Job) -> Route:
    rate = job.cluster.chip.network
    return Route(size=job.cluster.slices, rate=rate, exchange_rate=rate, network="network", local=1)


def _activation_transfers(job: Job) -> list[Transfer]:
    ways, work, route = job.ways, job.work, routes(job)
    found = []
    stream = job.chip_tokens * work.width * job.compute_bytes  # one activation of a step, in bytes
    layers = work.num_layers / ways.stage
    recomputed = 0 if "mixer_output" in job.kept else 1
    if ways.tensor > 1:
        share = 2 * (ways.tensor - 1) / ways.tensor
        received = layers * (4 + recomputed) * share * stream
        found.append(_transfer("tensor", "all-reduce of sublayers' outputs", received, route["tensor"], hidden=False))
    if ways.context > 1:
        keys = sum(layer.repeats * layer.key_width for layer in work.layers) / (ways.stage * ways.tensor)
        passes = 3 if "attention" in job.kept else 4  # forward, recomputed, backward, gradients
        received = keys * job.chip_tokens * job.compute_bytes * (ways.context - 1) * passes
        found.append(_transfer("context", "keys and values of other parts", received, route["context"], hidden=True))
    if ways.expert > 1:
        found.append(_exchange_of_tokens(job, stream / ways.tensor, route["expert"]))
    if ways.stage > 1:
        received = 2 * stream * job.virtual_stages / ways.tensor
        crosses = job.cluster.slices > 1 and job.across_slices == "stage"
        way = _between_slices(job) if crosses else route["stage"]
        found.append(_transfer("stage", "activations between stages", received, way, hidden=True))
    return found


def _exchange_of_tokens(job: Job, stream: float, route: Route) -> Transfer:
    """The way of tokens to experts on other chips and back, forward and backward; `stream` in bytes."""
    again = 0 if {"ffn_gate", "ffn_up"} <= job.kept else 1
    copies = sum(layer.repeats * _sent(layer.expert_rows, route) for layer in job.work.layers) / job.ways.stage
    received = stream * copies * (4 + again)
    return Transfer(
        axis="expert",
        purpose="all-to-all of tokens",
        received=received,
        seconds=received / route.exchange_rate,
        network=route.network,
        hidden=False,
    )


def _sent(rows: float, route: Route) -> float:
    """Returns how many copies of a token leave its chip, or its node where experts are spread over several nodes.

    A node gets one copy of a token, however many of the token's experts it has.
    """
    groups = route.size // route.local
    if groups == 1:
        return rows * (route.size - 1) / route.size
    return (groups - 1) * (1 - (1 - 1 / groups) ** rows)


def _transfer(axis: str, purpose: str, received: float, route: Route, hidden: bool) -> Transfer:
    return Transfer(
        axis=axis,
        purpose=purpose,
        received=received,
        seconds=received / route.rate,
        network=route.network,
        hidden=hidden,
    )
