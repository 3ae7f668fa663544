"""The words for differences and verdicts."""

import dataclasses
import types

import pytest

from train.lab.comparison.comparison import compare
from train.lab.comparison.divergence import Divergence, MetricDifference
from train.lab.comparison.evaluation import PairedEvaluation, PairedMeasure
from train.lab.comparison.table import change_rows, divergence_rows, divergence_sentences, lines, paired_rows
from train.lab.statistics.differences import Difference


def paired(low, high):
    mean = (low + high) / 2
    difference = Difference(mean=mean, low=low, high=high, level=0.95, n=8, p_value=0.01, deviation=0.1)
    measures = [PairedMeasure("loss", 2.0, 2.0 + mean, difference), PairedMeasure("bits_per_byte", 1.0, 1.5, None)]
    return PairedEvaluation("a text", (8, 9), (20, 10), ((16, 8), (16, 8)), measures, ["something odd"])


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 0.3, "B is worse"),
        (-0.3, -0.1, "B is better"),
        (-0.1, 0.3, "no difference is shown"),
        (0.0, 0.0, "equal"),
    ],
)
def test_a_verdict_follows_the_interval(low, high, word):
    rows = paired_rows(types.SimpleNamespace(paired=paired(low, high)))
    assert rows[1][-1] == word
    assert rows[1][4] == f"{low:+.4f} to {high:+.4f}, 95.0%"
    assert rows[2] == ["bits per byte", "1.0000", "1.5000", "+0.5000", "-", "-", ""]


def test_a_parting_in_words_and_digits():
    found = Divergence(20, 20, [MetricDifference("grad_norm", 7, 1.0, 1.0 + 2**-20)], 6)
    assert list(divergence_sentences(found)) == ["at step 7 of 20 common logged steps; the last equal one is step 6"]
    assert divergence_rows(found)[1] == ["grad norm", "7", "1", "1.00000095", "+9.54e-07", "+9.54e-07"]


def test_lines_are_of_bounded_width_and_escaped(tiny_run, spiky_run):
    found = compare(tiny_run, spiky_run, evaluate=False)
    change = dataclasses.replace(found.changes[0], a="x" * 500, b="\x1b[31m\n")
    found = dataclasses.replace(found, changes=[change], paired=paired(0.1, 0.2), notes=["a\x07b"])
    text = list(lines(found))
    assert max(map(len, text)) < 260
    assert not any("\x1b" in line or "\x07" in line or "\n" in line for line in text)
    assert "Both on a text: 8 of 9 documents, checkpoints 20 and 10" in text
    assert "  note: something odd" in text
    assert change_rows(found, "config")[0][0].endswith(" (changes no result)")
