"""The parameters and batches that two configs share."""

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.parameters.names import flatten
from train.lab.parity.inputs import (
    Inputs,
    check_same_parameters,
    prepare_experiments,
    random_batch,
    shared_params,
)

PATTERN = "(Except(layers='1', position=NoPositions()),)"  # two stacks of one layer, not one of two


def test_parameters_are_the_same_in_both_formats_and_groups_of_layers(tiny_experiment):
    a = tiny_experiment(model__mixer__qkv_bias=True)
    b = tiny_experiment(
        model__mixer__qkv_bias=True,
        model__exceptions=PATTERN,
        model__precision__parameters="bfloat16",
        mesh="Mesh(fsdp=8)",
    )
    one, other = (flatten(jax.device_get(tree)) for tree in shared_params(a, b, Inputs()))
    for name, x in one.items():
        assert x.dtype == np.float32
        assert np.std(x) > 0.01, f"{name} is constant, and hides what it multiplies"
        stacked = name.startswith("blocks.")
        parts = x if stacked else [x]
        for layer, part in enumerate(parts):
            found = other[name.replace("blocks.", f"blocks.{layer}.") if stacked else name]
            assert found.dtype.name == "bfloat16"
            np.testing.assert_array_equal(found[0].astype(np.float32) if stacked else found.astype(np.float32), part)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model__ffn__width": 48}, r"blocks\.ffn\.down of layer 0 has the shape \(64, 32\) in a, .*\(48, 32\) in b"),
        ({"model__num_layers": 3}, r"of layer 2 does not exist in a, and has the shape"),
        ({"model__mixer__qkv_bias": True}, r"bias.* of layer 0 does not exist in a, and has the shape"),
    ],
    ids=str,
)
def test_the_first_parameter_that_differs_is_named(change, words, tiny_experiment):
    with pytest.raises(UserError, match=words):
        check_same_parameters(tiny_experiment().model, tiny_experiment(**change).model)


def test_the_batch_fits_both(tiny_experiment):
    a = tiny_experiment(
        mesh="Mesh(data=8)", model__dropout__residual=0.5, training__frozen="Frozen(parts=('embedding',))"
    )
    b = tiny_experiment(mesh="Mesh(data=1)", training__gradient_accumulation=3, data__batch_size=9)
    one, other = prepare_experiments(a, b, Inputs())
    assert (one.data.batch_size, other.data.batch_size) == (24, 24)
    assert one.model.dropout.residual == 0
    assert one.training.frozen.parts == ()
    assert prepare_experiments(b, b, Inputs(batch_size=6, sequence_length=8))[0].data.sequence_length == 8
    with pytest.raises(UserError, match="9 documents do not fit a row of 16 tokens; give 1 to 8"):
        prepare_experiments(a, b, Inputs(documents=9))
    with pytest.raises(UserError, match="longer than model.context_length"):
        prepare_experiments(a, b, Inputs(sequence_length=64))


def test_documents_are_packed_with_positions_weights_and_padding(tiny_experiment):
    experiment = tiny_experiment()
    batch = random_batch(experiment, Inputs(documents=3, seed=5))
    segments_BT = batch["segment_ids"]
    assert [len(set(row)) for row in segments_BT] == [3] * 7 + [len(set(segments_BT[-1]))]
    assert (segments_BT[-1, -2:] == 0).all()
    for segments, positions, weights in zip(segments_BT, batch["positions"], batch["weights"], strict=True):
        for number in set(segments) - {0}:
            (columns,) = np.nonzero(segments == number)
            assert positions[columns].tolist() == list(range(len(columns)))
            last_in_row = columns[-1] == len(segments) - 1
            assert weights[columns].tolist() == [1.0] * (len(columns) - 1) + [float(last_in_row)]
        assert (weights[segments == 0] == 0).all()
    np.testing.assert_array_equal(batch["targets"][:, :-1], batch["tokens"][:, 1:])
    plain = random_batch(experiment, Inputs())
    assert (plain["segment_ids"] == 1).all()
    assert plain["weights"].all()
