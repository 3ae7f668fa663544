import pytest

from model.errors import UserError
from model.inference.sampling import Sampling
from train.evaluation.harness.requests import Continuation, cut, parse_generation, rolling_windows


def test_windows_of_the_harness_documentation():
    """Ten tokens, a context of four: three windows, the last with a whole context."""
    assert list(rolling_windows(range(10), -1, 4)) == [
        Continuation([-1], [0, 1, 2, 3]),
        Continuation([3], [4, 5, 6, 7]),
        Continuation([5, 6, 7], [8, 9]),
    ]


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_every_token_is_scored_once_in_a_window_as_full_as_can_be(count, length):
    ids = list(range(100, 100 + count))
    windows = list(rolling_windows(ids, 7, length))
    assert [token for window in windows for token in window.continuation] == ids
    for context, continuation in windows:
        inputs = [*context, *continuation[:-1]]
        assert len(context) >= 1
        assert len(inputs) == min(length, count)
        before = [7, *ids]
        at = before.index(continuation[0])
        assert before[at - len(context) : at] == context


def test_keywords_of_generation():
    assert parse_generation({"until": "\n"}, "t") == (("\n",), Sampling(max_tokens=256, temperature=0.0))
    assert parse_generation({"until": None}, "t").until == ()
    greedy = parse_generation({"until": ["a", "b"], "max_tokens": 3, "max_new_tokens": 5, "do_sample": False}, "t")
    assert greedy == (("a", "b"), Sampling(max_tokens=5, temperature=0.0))
    drawn = parse_generation({"do_sample": True, "top_p": 0.5, "max_gen_toks": 9}, "t")
    assert drawn.sampling == Sampling(max_tokens=9, temperature=1.0, top_p=0.5)
    assert parse_generation({"temperature": 0.7}, "t").sampling.temperature == 0.7
    # Greedy decoding has nothing to choose from.
    assert parse_generation({"temperature": 0, "top_k": 5}, "t").sampling == Sampling(temperature=0.0)


def test_unknown_keywords_are_refused():
    with pytest.raises(
        UserError, match=r"writing: generation_kwargs.num_beams is not supported; known: until, max_gen"
    ):
        parse_generation({"until": [], "num_beams": 4}, "writing")


def test_a_text_ends_before_its_first_stop_string():
    assert cut("one. two; three", (";", ".")) == "one"
    assert cut("one", ("", ".")) == "one"
