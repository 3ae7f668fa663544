import json

import numpy as np
import pytest

from model.errors import UserError
from train.data.tokenizers.prefixes import PrefixSize
from train.evaluation.details import DetailSums, TokenScores
from train.evaluation.document_scores import Collector, DocumentScore, Kept
from train.evaluation.documents import Document
from train.evaluation.measures import LossSums
from train.evaluation.windows import sliding

LENGTH, MARK, NONE = 4, 9, PrefixSize(0, 0)
FIRST = PrefixSize(3, 0, 1)


def document(name, size, domain=""):
    ids = np.arange(size, dtype=np.int32)
    return Document(name, ids, 3 * size, size, True, FIRST, 2 * size, domain)


def begin(collector, number, one, marked=True):
    stream = np.concatenate([[MARK], one.ids]) if marked else one.ids
    found = list(sliding(len(stream) - 1, LENGTH, 2))
    collector.begin(number, one, stream, NONE if marked else FIRST, len(found))
    return found


def nll(window):
    """The loss of the target of input i is i + 0.25."""
    return TokenScores(np.arange(window.first_scored, window.stop) + 0.25)


def test_a_document_is_finished_with_its_last_window_in_any_order():
    finished = []
    collector = Collector(LENGTH, detailed=False, on_finish=finished.append)
    long = begin(collector, 0, document("long", 7))
    short = begin(collector, 2, document("short", 2))  # document 1 was empty
    assert len(long) == 3
    for number, window in [(0, long[0]), (2, short[0]), (0, long[1])]:
        collector.add(number, window, nll(window))
    assert [one.name for one in finished] == ["short"]
    assert (collector.is_finished(2), collector.is_finished(0)) == (True, False)
    collector.add(0, long[2], nll(long[2]))
    scores = collector.scores()
    assert [(one.number, one.name) for one in scores] == [(0, "long"), (2, "short")]
    assert scores[0].sums == LossSums(21 + 7 * 0.25, 7, 21, 7, characters=14)
    assert scores[0].weighted == (scores[0].sums.nll, 7.0)


def test_a_first_token_that_nothing_comes_before_is_in_no_sum():
    collector = Collector(LENGTH, detailed=False, kept=Kept(10, 10))
    (window,) = begin(collector, 0, document("a", 4), marked=False)
    collector.add(0, window, nll(window))
    (score,) = collector.scores()
    assert (score.sums.tokens, score.sums.bytes, score.sums.words, score.sums.characters) == (3, 9, 4, 7)
    assert (score.ids, score.losses) == ((0, 1, 2, 3), (0.25, 1.25, 2.25))


def test_first_tokens_are_kept_until_a_domain_or_all_has_enough():
    collector = Collector(LENGTH, detailed=False, kept=Kept(of_document=3, of_domain=5, in_all=6))
    sizes = [(7, "a"), (7, "a"), (7, "a"), (2, "b")]
    for number, (size, domain) in enumerate(sizes):
        for window in begin(collector, number, document(f"{number}", size, domain)):
            collector.add(number, window, nll(window))
    kept = [(one.ids, one.losses) for one in collector.scores()]
    assert kept == [
        ((0, 1, 2), (0.25, 1.25, 2.25)),
        ((0, 1), (0.25, 1.25)),
        ((), ()),
        ((0,), (0.25,)),
    ]


def stored(detailed=True):
    collector = Collector(LENGTH, detailed=detailed, kept=Kept(2, 9))
    (window,) = begin(collector, 0, document("a", 3))
    draw = np.random.default_rng(0)
    values = TokenScores(draw.uniform(0, 9, 3), draw.uniform(0, 1, 3), draw.uniform(0, 1, 3), np.array([0, 3, 8]))
    collector.add(0, window, values)
    return collector.scores()[0]


def test_scores_survive_json_to_the_bit():
    score = stored()
    again = DocumentScore.from_json(json.loads(json.dumps(score.as_json())))
    assert (again.sums, again.weighted, again.ids, again.losses) == (
        score.sums,
        score.weighted,
        score.ids,
        score.losses,
    )
    assert isinstance(again.details, DetailSums)
    assert again.as_json() == score.as_json()


def test_stored_scores_take_the_place_of_windows():
    known = stored(detailed=False)
    collector = Collector(LENGTH, detailed=False, stored={0: known})
    (window,) = begin(collector, 0, document("a", 3))
    assert collector.is_finished(0)
    collector.add(0, window, nll(window))  # a batch that another document shares is computed again
    assert collector.scores()[0].sums == known.sums
    for other in (document("b", 3), document("a", 4)):
        with pytest.raises(UserError, match="stored results have a as document 1, and the text has"):
            begin(Collector(LENGTH, detailed=False, stored={0: known}), 0, other)
