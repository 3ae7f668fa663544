"""Kernels decide by the request: it describes the whole call, without the contents of arrays."""

import jax
import jax.numpy as jnp

from model.kernels import attend, new_request
from model.kernels.scoring import Scoring
from model.kernels.visibility import Coordinates, causal
from model.kernels.xla.plain import Plain
from model.positions.alibi import LinearBias


def test_a_kernel_is_told_all_that_is_asked():
    told = []

    class Listening(Plain):
        def supports(self, request):
            told.append(request)
            return None

    q, k = jnp.ones((2, 3, 4, 8), jnp.bfloat16), jnp.ones((2, 3, 2, 8), jnp.bfloat16)
    visibility, scoring, bias = causal(Coordinates(3)), Scoring(0.5, 3.0), LinearBias((0.5,) * 4)
    drops = {"dropout": 0.5, "dropout_key": jax.random.key(0)}
    asked = {"bias": bias, "platform": "gpu", "kernels": (Listening(),)}
    attend(q, k, k, visibility, scoring, sink_N=jnp.ones(4), **asked, **drops)
    attend(q, k, k, visibility, scoring, **asked, **(drops | {"dropout_key": None}))
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, k)]
    expected = new_request(*shapes, visibility, scoring, bias=bias, has_sinks=True, dropout=0.5, platform="gpu")
    assert told[0] == expected
    assert told[1] == new_request(*shapes, visibility, scoring, bias=bias, platform="gpu")
