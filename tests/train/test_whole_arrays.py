"""No array of a training step, forward or backward, grows with the square of the sequence, or with the tokens times the
vocabulary: a walk through its program, and through that of evaluation.

The experiments are those of the golden curves (tests/train/test_golden.py) at longer sequences: two rows, four heads,
all other axes far below the length.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from model.attention.patterns import Everything, Fixed
from model.vocabulary import cross_entropy
from tests.tiers import representatives
from tests.train.test_golden import EXPERIMENTS
from train.evaluation.validation import compile_eval_step
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import MeshLayout
from train.state import StateConfig, abstract_state
from train.step import compile_train_step

ROWS, HEADS = 2, 4


def inside(equation):
    """The programs in an equation: bodies of loops, branches, functions."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield getattr(part, "jaxpr", part)


def arrays(program):
    """The shapes of all arrays that a program makes, with those inside its equations."""
    for equation in program.eqns:
        yield from (x.aval.shape for x in equation.outvars if hasattr(x.aval, "shape"))
        for other in inside(equation):
            yield from arrays(other)


def step_arrays(name, folder, length, pattern=None, compiled=compile_train_step, **changes):
    """The shapes of all arrays of the step of an experiment at a length, with some options of its model changed."""
    made = EXPERIMENTS[name](folder) if name == "packed" else EXPERIMENTS[name]()
    model = dataclasses.replace(made.model, context_length=length, **changes)
    if pattern is not None:
        model = dataclasses.replace(model, mixer=dataclasses.replace(model.mixer, pattern=pattern))
    data = dataclasses.replace(made.data, sequence_length=length, batch_size=ROWS)
    made = dataclasses.replace(made, model=model, data=data)
    fields = {"tokens": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    fields |= {"segment_ids": jnp.int32, "positions": jnp.int32} if name == "packed" else {}
    batch = {field: jax.ShapeDtypeStruct((ROWS, length), dtype) for field, dtype in fields.items()}
    step = compiled(made, make_mesh(Mesh(), jax.devices()[:1]))
    state = abstract_state(StateConfig.of(made))
    shapes = set(arrays(jax.make_jaxpr(step)(state, batch).jaxpr))
    assert any(length in shape for shape in shapes), "the walk has seen the sequence"
    return shapes


def squares(shapes, length):
    """The shapes that have the sequence twice."""
    return [shape for shape in shapes if sum(size >= length for size in shape) > 1]


SEEN = ("grouped", "multi_token", "capacity")  # by `make test`


@pytest.mark.parametrize("name", representatives(EXPERIMENTS, *SEEN))
def test_no_array_has_the_sequence_twice(name, tmp_path):
    """512 tokens on a CPU: the largest array has 524,288 numbers, a block of 128 queries by all keys."""
    shapes = step_arrays(name, tmp_path, 512)
    assert not squares(shapes, 512)
    assert max(map(math.prod, shapes)) <= ROWS * HEADS * 128 * 512


@pytest.mark.parametrize("pattern", [Everything(), Fixed(stride=64)], ids=repr)
@pytest.mark.parametrize(("platform", "length"), [("cpu", 8192), ("tpu", 4096), ("gpu", 16384)])
def test_on_longer_sequences_scores_do_not_grow(platform, length, pattern, tmp_path, monkeypatch):
    """Tiles of 512 queries and keys for two rows of four heads, whatever the length; 1,024 queries on a TPU (splash)."""
    monkeypatch.setattr(MeshLayout, "platform", platform)
    shapes = step_arrays("dense", tmp_path, length, pattern)
    assert not squares(shapes, length)
    splash = platform == "tpu" and pattern == Everything()  # it takes no Fixed
    tile = (1024 if splash else 512) * 512
    assert max(map(math.prod, shapes)) <= max(ROWS * HEADS * tile, 2 * ROWS * length * 64)  # hidden layers
    assert ((ROWS, HEADS, 1, 512, 512) in shapes) != splash


VOCAB, CHUNK = 997, 128  # no other axis is as long; the layers are up to 128 wide


@pytest.mark.parametrize("compiled", [compile_train_step, compile_eval_step], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", representatives(EXPERIMENTS, *SEEN))
def test_no_array_has_all_tokens_and_the_vocabulary(name, compiled, tmp_path, monkeypatch):
    """1,024 tokens (of two micro-batches, 512): logits of 128 of them at a time, and parameters of so many numbers."""
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", CHUNK * VOCAB)
    shapes = step_arrays(name, tmp_path, 512, compiled=compiled, vocab_size=VOCAB)
    wide = [shape for shape in shapes if VOCAB in shape]
    assert (CHUNK, VOCAB) in wide
    assert max(map(math.prod, wide)) == CHUNK * VOCAB
    assert max(map(math.prod, shapes)) < ROWS * 512 * VOCAB


def test_the_walk_finds_a_square_wherever_it_is():
    def body(carry, x):
        return carry, jax.checkpoint(lambda x: jnp.sum(x[:, None] * x, axis=0))(x)

    program = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(jax.lax.scan(body, 0, x)[1])))(jnp.ones((2, 512)))
    assert (512, 512) in squares(set(arrays(program.jaxpr)), 512)
