"""Small models to serve, and a loop that runs requests through an engine and checks its pages after every step."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import SlidingWindow
from model.encoder.both_ways import BothWays
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.feedforward.dispatch import Capacity
from model.feedforward.experts import Experts
from model.feedforward.mlp import MLP, Gated
from model.inference.engine.engine import Engine
from model.inference.engine.options import EngineOptions
from model.layers import Except
from model.parameters.adapters import DoRA
from model.parameters.names import flatten, unflatten
from model.positions.absolute import NoPositions
from model.positions.relative import RelativeBias
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.state_space import StateSpace
from tests.model.inference.greedy import CONFIG, draw

DENSE = dataclasses.replace(CONFIG, context_length=40)
WINDOW = GroupedQuery(num_heads=4, num_kv_heads=2, pattern=SlidingWindow(size=5))
ENCODER = Encoder(
    num_layers=1,
    context_length=24,
    mixer=GroupedQuery(num_heads=2),
    ffn=MLP(width=20),
    cross=CrossAttention(num_heads=4),
    start_token=7,
)


def first_layer(mixer):
    return dataclasses.replace(DENSE, exceptions=(Except(layers="0", mixer=mixer),))


MODELS = {
    "dense": DENSE,
    "window": first_layer(WINDOW),
    "latent": dataclasses.replace(
        DENSE, mixer=Latent(num_heads=2, kv_rank=8, head_dim=8, rotary_head_dim=4, value_head_dim=8)
    ),
    "delta": first_layer(GatedDelta(num_heads=2)),
    "state space": dataclasses.replace(
        DENSE, position=NoPositions(), mixer=StateSpace(num_heads=2, num_groups=1, state_dim=8)
    ),
    "GRU": first_layer(GRU(num_heads=2)),
    "multi-head": dataclasses.replace(DENSE, mixer=GroupedQuery(num_heads=4)),
    "only windows": dataclasses.replace(DENSE, mixer=WINDOW),
    "keys of an earlier layer": dataclasses.replace(
        DENSE, exceptions=(Except(layers="1", mixer=GroupedQuery(num_heads=4, num_kv_heads=2, kv_from_layer=0)),)
    ),
    "experts": dataclasses.replace(
        DENSE, ffn=Experts(num_experts=4, top_k=2, expert=Gated(width=16), dispatch=Capacity(factor=0.5))
    ),
    "positions of lengths": dataclasses.replace(
        DENSE, position=Rotary(scaling=DynamicNTK(factor=2.0, original_length=12))
    ),
    "adapters": dataclasses.replace(DENSE, adapters=DoRA(rank=2)),
    "encoder": dataclasses.replace(DENSE, encoder=ENCODER),
    "encoder of a recurrence": dataclasses.replace(
        DENSE,
        position=NoPositions(),
        mixer=GRU(num_heads=2),
        encoder=dataclasses.replace(ENCODER, mixer=BothWays(mixer=GRU(num_heads=2)), position=NoPositions()),
    ),
    "long sources": dataclasses.replace(
        DENSE,
        position=RelativeBias(shared=True),
        encoder=dataclasses.replace(
            ENCODER, num_layers=2, context_length=300, position=RelativeBias(bidirectional=True, shared=True)
        ),
    ),
}


def params_of(name):
    """The drawn parameters of a model; those that start at 0, the second factors of adapters, are drawn too."""
    params = draw(MODELS[name])
    if MODELS[name].adapters is None:
        return params
    arrays, rng = flatten(params), np.random.default_rng(0)
    for path in arrays:
        if path.endswith("lora_b"):
            arrays[path] = jnp.asarray(rng.normal(0, 0.4, arrays[path].shape), arrays[path].dtype)
    return unflatten(params, arrays)


def engine_of(name, draft=None, **options):
    """An engine of a model whose cache is a little larger than the longest text, and the model's parameters."""
    defaults = dict(rows=4, tokens_per_step=9, page_size=4, cache_tokens=44, max_logprobs=3)
    params = params_of(name)
    return Engine(MODELS[name], params, EngineOptions(**defaults | options), draft=draft), params


def with_source(name, request):
    """The request, with one of 12 sources if the model reads any; equal requests have equal ones."""
    if MODELS[name].encoder is None:
        return request
    parts, first = MODELS[name].encoder.context_length // 6, request.prompt[-1] % 2
    length = 1 + parts * (len(request.prompt) % 6)
    return dataclasses.replace(request, source=tuple((first + 5 * i) % 61 for i in range(length)))


@dataclasses.dataclass
class Answer:
    """All that the updates of one request said."""

    scores: list = dataclasses.field(default_factory=list)
    prompt: tuple | None = None
    ended_by: str | None = None

    @property
    def tokens(self):
        return [score.token for score in self.scores]


def serve(engine, requests, delays=None, cancels=None):
    """The answers of requests; request i is submitted before step delays[i], and cancelled before step cancels[i]."""
    delays, cancels = delays or [0] * len(requests), cancels or {}
    answers, ids, step = [Answer() for _ in requests], {}, 0
    while len(ids) < len(requests) or engine.num_unfinished:
        for i, request in enumerate(requests):
            if delays[i] == step:
                ids[engine.submit(request)] = i
        for request_id, i in ids.items():
            if cancels.get(i) == step:
                engine.cancel(request_id)
        for update in engine.step():
            answer = answers[ids[update.request_id]]
            assert answer.ended_by is None, "an update after the last"
            answer.scores += update.tokens
            answer.prompt = answer.prompt if update.prompt is None else update.prompt
            answer.ended_by = update.ended_by
        engine._scheduler.check()
        step += 1
        assert step < 2000, "requests do not end"
    assert engine.statistics.pages_in_use == 0, "a page leaks"
    assert all(answer.ended_by for answer in answers), "a request is lost"
    return answers
