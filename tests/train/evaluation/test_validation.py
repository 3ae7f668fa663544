"""Validation in training and evaluation of the same documents: one convention, and 2 bits where there are 2 bits."""

import dataclasses
import json
import math
import random

import jax
import jax.numpy as jnp
import pytest

from model.errors import UserError
from model.parameters.maker import Normal
from model.positions.rotary import Rotary
from model.positions.scaling import DynamicNTK
from train.data.config import Bytes, Characters, SeparateText, Tail
from train.data.prepare.prepare import prepare
from train.data.shards.dataset import open_dataset
from train.evaluation.evaluate import evaluate
from train.evaluation.validation import SplitEvaluation
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.table import layout_of
from train.run.loading import LoadedRun
from train.state import StateConfig, init_state


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """70 documents of two letters out of four: 2 bits a byte."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps({"text": "".join(draw.choices("abcd", k=2))}) + "\n" for _ in range(70)))
    return path


def opened(tiny_experiment, tokenizer, size, path, into, **changes):
    """The experiment on a text, its validation, and its first state."""
    usual = {"data__validation": SeparateText(path=str(path)), "samples__prompts": (), "data__sequence_length": 12}
    experiment = tiny_experiment(
        data__path=str(path), data__tokenizer=tokenizer, model__vocab_size=size, **usual | changes
    )
    dataset = open_dataset(prepare(experiment.data, into / "data"))
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    state = init_state(StateConfig.of(experiment), 0)
    return experiment, dataset, mesh, state


UNIFORM = [
    (Characters(), 4, 2.0),
    (Characters(end_of_document=True), 5, math.log2(5)),
    (Bytes(end_of_document=False), 256, 8.0),
]


@pytest.mark.parametrize("max_batches", [None, 1])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("tokenizer", "size", "bits"), UNIFORM, ids=str)
def test_a_uniform_model_needs_the_bits_of_its_vocabulary(
    tokenizer, size, bits, joined, max_batches, pairs, tiny_experiment, tmp_path
):
    experiment, dataset, mesh, state = opened(
        tiny_experiment,
        tokenizer,
        size,
        pairs,
        tmp_path,
        data__cross_document_attention=joined,
        evaluation__max_batches=max_batches,
    )
    zeros = dataclasses.replace(state, params=jax.tree.map(jnp.zeros_like, state.params))
    found = SplitEvaluation(experiment, dataset, mesh)(zeros)
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-5)  # sums are float32
    assert found["loss"] == pytest.approx(math.log(size), rel=1e-5)
    assert found["perplexity"] == pytest.approx(size, rel=1e-5)


def test_it_agrees_with_the_evaluation_of_the_same_documents(pairs, tiny_experiment, tmp_path):
    """Rows of 12 cut no document of two tokens, so both see the same context."""
    experiment, dataset, mesh, state = opened(tiny_experiment, Characters(), 4, pairs, tmp_path)
    told = []
    measured = SplitEvaluation(experiment, dataset, mesh, alive=lambda: told.append(1))(state)
    assert len(told) > 1  # a watchdog hears of every batch
    layout = layout_of(mesh, experiment.sharding)
    run = LoadedRun(tmp_path, experiment, state.params, mesh, layout, dataset.tokenizer, 0)
    values = {name: estimate.value for name, estimate in evaluate(run).measures.items()}
    assert measured == pytest.approx({name: values[name] for name in measured}, rel=1e-6)
    assert measured["bits_per_byte"] == pytest.approx(measured["loss"] / math.log(2))


@pytest.mark.parametrize("joined", [False, True])
def test_the_length_that_positions_are_scaled_by_is_without_padding(joined, tiny_experiment, tmp_path):
    """A split of one document with its end, in a row that it fills and in a longer one."""
    (text := tmp_path / "text.txt").write_text("abcdabc")
    found = []
    for length in (8, 12):
        experiment, dataset, mesh, state = opened(
            tiny_experiment,
            Characters(end_of_document=True),
            5,
            text,
            tmp_path / str(length),
            data__sequence_length=length,
            data__cross_document_attention=joined,
            model__position=Rotary(theta=9.0, scaling=DynamicNTK(factor=4.0, original_length=3)),
            model__initialization=Normal(std=0.5),
        )
        found.append(SplitEvaluation(experiment, dataset, mesh)(state)["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_ends_of_documents_count_for_the_loss_and_have_no_bytes(pairs, tiny_experiment, tmp_path):
    """A model that never expects an end: the loss says so, the bits of the text do not."""
    experiment, dataset, mesh, state = opened(
        tiny_experiment, Characters(end_of_document=True), 5, pairs, tmp_path, model__unembedding="Untied(bias=True)"
    )
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    bias = [path for path, x in jax.tree_util.tree_leaves_with_path(zeros) if x.shape == (5,)]
    assert len(bias) == 1
    params = jax.tree_util.tree_map_with_path(lambda path, x: x.at[4].set(-20.0) if path == bias[0] else x, zeros)
    found = SplitEvaluation(experiment, dataset, mesh)(dataclasses.replace(state, params=params))
    assert found["bits_per_byte"] == pytest.approx(2.0, rel=1e-5)
    assert found["loss"] == pytest.approx((2 * math.log(4) + (20 + math.log(4))) / 3, rel=1e-5)


def test_one_held_out_character_is_an_error(tiny_experiment, tmp_path):
    (tmp_path / "ten.txt").write_text("abcabcabca")
    experiment, dataset, mesh, _ = opened(
        tiny_experiment, Characters(), 3, tmp_path / "ten.txt", tmp_path, data__validation=Tail(fraction=0.1)
    )
    with pytest.raises(UserError, match=r"split 'validation' of .* has no token to predict: 1 document.*, 1 token"):
        SplitEvaluation(experiment, dataset, mesh)


def test_a_limit_that_leaves_no_target_is_an_error(tiny_experiment, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n' * 96 + '{"text": "abc"}\n')
    experiment, dataset, mesh, _ = opened(
        tiny_experiment, Characters(), 3, tmp_path / "t.jsonl", tmp_path, evaluation__max_batches=1
    )
    with pytest.raises(UserError, match=r"no token of text to predict in the first 1 batches \(evaluation.max_batches"):
        SplitEvaluation(experiment, dataset, mesh)
