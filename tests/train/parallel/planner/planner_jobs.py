"""Jobs and models that several tests of the planner use."""

import dataclasses
import functools

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.families.sizes import published
from model.feedforward.mlp import Gated
from model.parameters.precision import Precision
from model.vocabulary.embedding import Untied
from train.parallel.planner.chips import parse_cluster
from train.parallel.planner.job import Job, Ways
from train.parallel.planner.work import ModelWork, work_of

BF16 = Precision(compute="bfloat16")
SERVED = ModelConfig(
    vocab_size=1000,
    context_length=4096,
    num_layers=4,
    width=256,
    mixer=GroupedQuery(num_heads=8, num_kv_heads=2),
    ffn=Gated(width=512),
    unembedding=Untied(),
    precision=BF16,
)


@functools.cache
def work(name: str, length: int = 4096) -> ModelWork:
    return work_of(published(name), length)


@functools.cache
def experts(slots_factor: float | None = None) -> ModelWork:
    """A small mixture of experts: 8 experts, 2 a token, 4 layers of width 1,024."""
    from model.feedforward.dispatch import Capacity, Dropless
    from model.feedforward.experts import Experts

    dispatch = Dropless() if slots_factor is None else Capacity(factor=slots_factor)
    config = ModelConfig(
        vocab_size=4096,
        context_length=2048,
        num_layers=4,
        width=1024,
        mixer=GroupedQuery(num_heads=8),
        ffn=Experts(num_experts=8, top_k=2, expert=Gated(width=2048), dispatch=dispatch),
    )
    return work_of(config, 2048)


def job(cluster: str, model: ModelWork, rows: int = 1, slices: int = 1, **fields) -> Job:
    """A job with `rows` sequences a chip; `ways` as a dictionary, FSDP over all chips when not given."""
    found = parse_cluster(cluster, slices)
    ways = Ways(**fields.pop("ways", {"fsdp": found.chips}))
    return Job(work=model, cluster=found, ways=ways, batch=rows * found.chips, **fields)


def changed(one: Job, **ways: int) -> Job:
    """The same job on another mesh."""
    return dataclasses.replace(one, ways=Ways(**ways))
