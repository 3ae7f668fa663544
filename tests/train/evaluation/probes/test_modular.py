"""Modular addition: sums, and pairs that are trained on or held out, never both."""

import math

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.data.batches.generated import GeneratedBatches, GeneratedEvaluation
from train.data.generated import Generated
from train.evaluation.probes.interface import Reader, generators
from train.evaluation.probes.modular import ModularAddition

TASK = ModularAddition(modulus=7, share=0.4)


def test_sequences_are_sums():
    made = TASK.sequences(generators(0, "train", range(20)))
    assert made.tokens.shape == made.targets.shape == (20, 3)
    for (a, b, sign), target in zip(made.tokens, made.targets[:, 2], strict=True):
        assert (sign, target) == (7, (a + b) % 7)
    assert np.all(made.weights == [0, 0, 1])


def test_validation_has_the_pairs_that_are_not_trained_on():
    trained, others = ({tuple(pair) for pair in TASK.for_split(split).pairs()} for split in ("train", "validation"))
    assert len(trained) == round(0.4 * 49)
    assert not trained & others
    assert len(trained | others) == 49
    data = Generated(task=TASK, batch_size=64, validation_batches=2)
    batches = {"train": GeneratedBatches(data).rows(0), "validation": next(iter(GeneratedEvaluation(data)))}
    for split, expected in (("train", trained), ("validation", others)):
        assert {tuple(pair) for pair in batches[split]["tokens"][:, :2]} <= expected


def test_findings_and_sizes():
    made = TASK.sequences(generators(0, "train", range(4)))
    found = TASK.findings(made, np.full((4, 3), 0.5), np.ones((4, 3), bool))
    assert (found.numbers["loss"], found.numbers["accuracy"]) == (0.5, 1.0)
    assert found.baselines == {"uniform": math.log(7)}
    assert ModularAddition.sized(Reader(20, 8)).modulus == 19
    for fields, words in (({"modulus": 2}, "modulus: must be at least 3"), ({"share": 1.0}, "share: must be above 0")):
        with pytest.raises(UserError, match=words):
            check(ModularAddition(**fields))
