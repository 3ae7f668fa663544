"""The trial of programs: those with other bits are left out, and an engine of one program must have equal rows."""

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.inference.engine.device_state import Rows
from model.inference.engine.programs import compiled
from model.inference.request import Request
from model.inference.sampling import Sampling
from tests.model.inference.engine.serving import engine_of, serve


def test_programs_with_other_results_are_left_out(monkeypatch):
    made, _ = engine_of("dense", rows=4, tokens_per_step=8)
    device = made._device

    def worse(function, *inputs, platform):
        """Compiles a program that rounds, unless it reads 2 or 4 tokens."""
        program = compiled(function, *inputs, platform=platform)
        [tokens] = (each.tokens_BT for each in inputs if isinstance(each, Rows))
        if tokens.size in (2, 4) and tokens.shape != (4, 1):
            return program

        def rounded(params, state, *rest):
            result = program(params, state, *rest)
            state, others = (result[0], result[1:]) if isinstance(result, tuple) else (result, ())
            state = {
                name: {each: x * np.float32(1.001) for each, x in arrays.items()} for name, arrays in state.items()
            }
            return (state, *others) if others else state

        return rounded

    monkeypatch.setattr("model.inference.engine.programs.compiled", worse)
    done = []
    made.compile(lambda number, count: done.append((number, count)))
    assert done == [(1, 4), (2, 4), (4, 4)]
    assert device._decode_sizes == [2]
    assert device._read_sizes[0] == (2, 2)
    assert made.is_exact


def test_an_invariant_engine_has_one_program_of_one_shape(monkeypatch):
    made, shapes = engine_of("dense", rows=4, tokens_per_step=9, invariant=True, max_logprobs=3)[0], []

    def heard(function, *inputs, platform):
        program = compiled(function, *inputs, platform=platform)
        shape = lambda x: (np.shape(x), np.asarray(x).dtype)  # noqa: E731

        def called(*given):
            shapes.append((function.__name__, str(jax.tree.map(shape, given))))
            return program(*given)

        return called

    monkeypatch.setattr("model.inference.engine.programs.compiled", heard)
    done = []
    made.compile(lambda number, count: done.append((number, count)))
    assert done == [(1, 1)]
    drawn = Sampling(temperature=1.0, top_k=4, repetition_penalty=1.1, max_tokens=5)
    requests = [
        Request(
            prompt=tuple(range(1 + 9 * i)), sampling=drawn if i % 2 else Sampling(max_tokens=7), num_logprobs=i,
            num_prompt_logprobs=i if i > 1 else None,
        )
        for i in range(4)
    ]  # fmt: skip
    serve(made, requests, delays=[0, 0, 2, 5])
    assert list(made._device._programs) == [("decode", 4, 1)]
    assert len(shapes) > 20
    assert len(set(shapes)) == 1
    assert made.is_exact


@pytest.mark.parametrize("by", ["place", "neighbours"])
def test_a_device_on_which_rows_differ_has_no_invariant_engine(monkeypatch, by):
    def worse(function, *inputs, platform):
        program = compiled(function, *inputs, platform=platform)

        def rounded(params, state, rows, *rest):
            state, drawn, last = program(params, state, rows, *rest)
            factor = np.ones(4, np.float32)
            factor[-1] += 0.001 * (by == "place" or len(set(rows.first_B)) > 1)
            scores = drawn.scores.replace(likeliest_logprob=drawn.scores.likeliest_logprob * factor[:, None])
            return state, drawn.replace(scores=scores), last

        return rounded

    monkeypatch.setattr("model.inference.engine.programs.compiled", worse)
    made = engine_of("dense", rows=4, tokens_per_step=9, invariant=True)[0]
    with pytest.raises(
        UserError, match=r"engine.invariant: on this cpu the results of a row .* engine.invariant=False"
    ):
        made.compile()
    assert not made.is_exact
    made.submit(Request(prompt=(1,)))
    with pytest.raises(UserError, match="engine.invariant"):
        made.step()
