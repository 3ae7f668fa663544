import numpy as np
import pytest

from model.errors import UserError
from train.evaluation.probes.induction import Induction
from train.evaluation.probes.interface import Reader
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.names import PROBES, name_of, parse_probes
from train.evaluation.probes.needle import Needle

READER = Reader(257, 512, 256, 256, lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int32))
NUMBERS = Reader(3, 32, trained_on=MarkovChains(length=32))


def test_names_and_options_separated_by_commas():
    found = parse_probes("induction, Needle(lengths=(64, 128), num_depths=3) ,markov", READER)
    assert found == [
        Induction.for_model(READER),
        Needle(lengths=(64, 128), num_depths=3),
        MarkovChains(num_states=3, length=128),
    ]
    assert [name_of(probe) for probe in found] == ["induction", "needle", "markov"]


def test_all_are_those_that_a_model_can_be_asked():
    assert [name_of(probe) for probe in parse_probes("all", READER)] == list(PROBES)
    assert [name_of(probe) for probe in parse_probes("all", NUMBERS)] == ["induction", "markov"]
    assert parse_probes("markov", NUMBERS) == [NUMBERS.trained_on]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inducton", "--probes: no probe is called 'inducton'; did you mean 'induction'"),
        ("Needle(depth=3)", "--probes.*Needle has no field 'depth'"),
        ("Needle(num_depths=1)", "--probes.num_depths: must be at least 2"),
        ("Haystack()", "--probes"),
    ],
)
def test_refused(text, words):
    with pytest.raises(UserError, match=words):
        parse_probes(text, READER)
