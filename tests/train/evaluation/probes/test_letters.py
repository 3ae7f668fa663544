import numpy as np
import pytest

from model.errors import UserError
from train.evaluation.probes.interface import Reader, generators
from train.evaluation.probes.letters import COUNTS, WORDS, Letters


def encode(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


READER = Reader(257, 1024, 256, 256, encode)


def texts(made):
    """The text of each sequence and its counted end."""
    for tokens, targets, weights in zip(*made, strict=True):
        first, last = np.nonzero(weights)[0][[0, -1]]
        whole = bytes(tokens[: last + 1].tolist()) + bytes([int(targets[last])])
        yield whole.decode(), bytes(targets[first : last + 1].tolist()).decode()


def test_words_have_at_most_four_of_a_letter():
    assert max(word.count(letter) for word in WORDS for letter in word) <= 4
    assert len(set(WORDS)) == len(WORDS)


def test_a_question_is_asked_in_both_forms_with_every_count():
    asked = Letters(num_examples=2).prepare(READER)
    found = list(texts(asked.sequences(generators(0, "probe", range(2)))))
    assert len(found) == 20
    assert [end for _, end in found] == [f" {count}" for count in COUNTS] * 4
    whole, spelled = found[0][0].split("\n"), found[5][0].split("\n")
    assert len(whole) == 3
    for line, other in zip(whole, spelled, strict=True):
        letter, word = line.split("letter ")[1].split(" occur in ")[0], line.split(" in ")[1].split("?")[0]
        assert f"occur in {' '.join(word)}?" in other
        if line is not whole[-1]:
            assert line.endswith(f"? {COUNTS[word.count(letter)]}")


def findings(prefer):
    """Findings of a model that prefers the count that `prefer` returns for a form, a word and a letter."""
    asked = Letters(num_examples=0).prepare(READER)
    made = asked.sequences(generators(0, "probe", range(40)))
    nll = np.full(made.tokens.shape, 5.0)
    for row, (word, letter, _) in enumerate(asked._asked):
        for f, form in enumerate(("whole", "spelled")):
            nll[row * 10 + f * 5 + prefer(form, word, letter)] = 0.0
    return asked, asked.findings(made, nll, np.zeros(made.tokens.shape, bool))


def test_a_model_that_counts_only_what_is_spelled():
    asked, found = findings(lambda form, word, letter: word.count(letter) if form == "spelled" else 0)
    zeros = np.mean([count == 0 for _, _, count in asked._asked])
    assert found.numbers["accuracy_spelled"] == 1.0
    assert found.numbers["accuracy_whole"] == zeros == found.numbers["accuracy_of_the_commonest_count"]
    assert found.numbers["accuracy"] == pytest.approx((1 + zeros) / 2)
    assert found.numbers["loss_spelled"] < 0.01 < found.numbers["loss_whole"]
    (curve,) = found.pictures
    assert curve.lines["spelled"] == (1.0,) * len(curve.x)
    assert curve.x == tuple(sorted({float(len(word) + 1) for word, _, _ in asked._asked}))


def test_the_loss_is_a_proper_loss_of_five_counts():
    asked = Letters(num_examples=0).prepare(READER)
    made = asked.sequences(generators(0, "probe", range(4)))
    found = asked.findings(made, np.ones(made.tokens.shape) / made.weights.sum(1, keepdims=True), made.weights > 0)
    assert found.numbers["loss"] == pytest.approx(np.log(5))
    assert found.baselines["uniform"] == pytest.approx(np.log(5))


def test_a_model_without_text_is_refused():
    with pytest.raises(UserError, match="letters: this model's tokens are not text"):
        Letters().prepare(READER._replace(encode=None))
    assert Letters.for_model(READER) == Letters(num_examples=4)
    assert Letters.for_model(READER._replace(context_length=100)) == Letters(num_examples=0)
