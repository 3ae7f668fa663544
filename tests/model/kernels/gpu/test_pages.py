"""The kernel of JAX that reads pages on GPUs, as plain operations here: numbers, refusals, and no copy of the pool."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from model.inference.request import Request
from model.inference.sampling import Sampling
from model.kernels import FOR_PAGES, choose
from model.kernels.gpu.pages import GPUPages
from tests.model.inference.engine.serving import DENSE, engine_of, serve
from tests.model.inference.greedy import assert_greedy
from tests.model.kernels.paged_matrix import BY_NAME, FEW, check, lowered, made_of_the_pool, problem, reason


def test_parts_of_rows_in_random_pages_that_nan_surrounds():
    check(dataclasses.replace(FEW, lengths=(1, 16, 70), kv_heads=1), GPUPages(interpret=True, keys=16))


@pytest.mark.sweep
@pytest.mark.parametrize("keys", [64, 128])
@pytest.mark.parametrize("name", BY_NAME)
def test_every_case(name, keys):
    check(BY_NAME[name], GPUPages(interpret=True, keys=keys))


def test_it_lowers_and_copies_no_pool():
    asked, text = lowered(FEW, GPUPages(), "cuda", "gpu")
    assert "triton" in text
    assert made_of_the_pool(asked, text) == {"reshape"}


@pytest.mark.parametrize(
    ("case", "asked", "expected"),
    [
        ({}, {}, None),
        ({"softcap": 3.0}, {}, None),
        ({"stored": "int8"}, {}, None),
        ({}, {"platform": "cpu"}, "it runs on a gpu, not on a cpu"),
        ({"dtype": "float32"}, {}, "it takes bfloat16 and float16, not float32"),
        ({"width": 80}, {}, "its head widths are the powers of 2 from 16 to 256, not 80"),
        ({"width": 512, "lengths": (1,)}, {}, "its head widths are the powers of 2 from 16 to 256, not 512"),
        ({"page": 24}, {}, "its pages have a power of 2 of tokens, at most 128, not 24"),
        ({"page": 256}, {}, "its pages have a power of 2 of tokens, at most 128, not 256"),
        ({}, {"has_sinks": True}, "it has no sinks"),
    ],
)
def test_what_it_refuses(case, asked, expected):
    assert reason(GPUPages(), case, **{"platform": "gpu"} | asked) == expected


def test_a_gpu_takes_it_and_others_say_why_not(monkeypatch):
    asked = problem(FEW)
    choices = {at: str(choose(asked.request(platform=at), FOR_PAGES)) for at in ("gpu", "cpu")}
    assert choices == {"gpu": "gpu_pages", "cpu": "pages"}
    sinks = choose(asked.request(platform="gpu", has_sinks=True), FOR_PAGES)
    assert str(sinks) == "pages (not gpu_pages: it has no sinks)"
    monkeypatch.setattr("model.kernels.gpu.pages.MODULE", "jax.gone")
    gone = choose(asked.request(platform="gpu"), FOR_PAGES)
    assert str(gone) == f"pages (not gpu_pages: jax {jax.__version__} has no module jax.gone)"


def test_an_engine_takes_it_with_pages_that_were_nan(monkeypatch):
    monkeypatch.setattr("model.kernels.FOR_PAGES", (GPUPages(interpret=True, keys=8), *FOR_PAGES))
    attend, used = GPUPages.attend, []
    monkeypatch.setattr(GPUPages, "attend", lambda self, *given: used.append(given[2].form) or attend(self, *given))
    made, params = engine_of("dense", rows=2, tokens_per_step=5, steps_per_call=1, cache_tokens=48)
    made.compile()
    assert len(used) >= DENSE.num_layers
    assert all(form.cleared for form in used)
    made._device._state = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), made._device._state)
    prompts = [list(range(3 + i, 9 + 4 * i)) for i in range(2)]
    sampling = Sampling(temperature=0, max_tokens=6)
    answers = serve(made, [Request(prompt=tuple(prompt), sampling=sampling) for prompt in prompts])
    assert_greedy(DENSE, params, prompts, [answer.tokens for answer in answers])
