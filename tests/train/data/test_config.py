import pytest

from model.options.tree import find_problems
from train.data.config import MAX_PIECES, Data, HeldOutDocuments, SentencePiece, Source, Tail


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (SentencePiece(vocab_size=299), "vocab_size: 299 leaves no room beside the 256 bytes; expected at least 300"),
        (SentencePiece(vocab_size=MAX_PIECES + 1), "vocab_size: expected at most 16,777,216, got 16,777,217"),
        (HeldOutDocuments(fraction=1.0), "fraction: expected a share between 0 and 1, got 1.0"),
        (HeldOutDocuments(similarity=0.0), "similarity: expected a share above 0 and at most 1, got 0.0"),
        (
            HeldOutDocuments(similarity=None, keep_generated=False),
            "keep_generated: tables are found while documents are",
        ),
        (Tail(fraction=0.0), "fraction: expected a share between 0 and 1, got 0.0"),
        (Source(path=""), "path: expected a path, got an empty string"),
        (Source(path="a", weight=0.0), "weight: expected a weight above 0, got 0.0"),
        (Data(batch_size=0), "batch_size: expected at least 1, got 0"),
        (Data(sequence_length=1), "sequence_length: expected at least 2, got 1"),
        (Data(seed=-1), "seed: expected at least 0, got -1"),
        (Data(prefetch=1001), "prefetch: expected at most 1,000, got 1,001"),
        (Data(batch_size=2**20 + 1), "batch_size: 1,048,577 sequences of 256 tokens make one batch of more than"),
        (Data(path=()), "path: expected a path or at least one Source, got nothing"),
        (Data(path=(Source(path="a"), Source(path="b", weight=-1.0))), "path.1.weight: expected a weight above 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(option, problem):
    (found,) = find_problems(option)
    assert found.startswith(problem)


def test_bounds_are_taken():
    for option in (
        SentencePiece(vocab_size=300),
        SentencePiece(vocab_size=MAX_PIECES),
        HeldOutDocuments(similarity=1.0),
        Data(batch_size=2**20, sequence_length=2**8),
        Data(sequence_length=2, prefetch=0),
    ):
        assert find_problems(option) == []


def test_one_path_is_a_mixture_of_one_source():
    assert Data(path="a.txt").sources() == (Source(path="a.txt", weight=1.0),)
    mixture = (Source(path="a.txt", weight=3), Source(path="b.txt"))
    assert Data(path=mixture).sources() == mixture
