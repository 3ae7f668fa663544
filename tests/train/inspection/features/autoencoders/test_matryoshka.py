"""Matryoshka: the loss is that of every nested dictionary."""

import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from tests.train.inspection.features.autoencoders.reference import B, M, compared, mean, parameters, tokens
from tests.train.inspection.features.autoencoders.test_batch_top_k import K, features_of
from train.inspection.features.autoencoders.matryoshka import Matryoshka
from train.inspection.features.training.settings import Autoencoder

SIZES = (2, 5)


def loss(p):
    _, target, weights = tokens()
    features, values = features_of(p), np.zeros(B)
    for size in (*SIZES, M):
        outputs = features[:, :size] @ p["decoder"][:size] + p["decoder_bias"]
        values += [np.sum((outputs[i] - target[i]) ** 2) for i in range(B)]
    return mean(values, weights)


def test_loss_and_gradient():
    found, _ = compared(Matryoshka(k=K, sizes=SIZES, auxiliary=None), parameters(threshold=np.zeros(())), loss)
    assert set(found.terms) == {"reconstruction_2", "reconstruction_5", "reconstruction"}


@pytest.mark.parametrize(("sizes", "words"), [((), "rising"), ((4, 2), "rising"), ((4, 8), "must be below width=8")])
def test_sizes_that_do_not_nest_are_refused(sizes, words):
    with pytest.raises(UserError, match=words):
        check(Autoencoder(name="a", width=8, architecture=Matryoshka(k=2, sizes=sizes)))
