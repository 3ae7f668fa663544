"""What generation and the engine take from a prompt."""

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.inference.prompts import check_ids, check_length, hash_of, key_of_text, seen_tokens


def test_a_prompt_must_fit_and_have_ids_of_the_vocabulary():
    check_length("it", [1] * 4, 4)
    check_ids("they", [], 3)
    check_ids("they", [0, 2], 3)
    with pytest.raises(UserError, match="^it has 6 tokens, more than the context of 4; shorten it by 2 tokens"):
        check_length("it", [1] * 6, 4)
    for ids in ([0, 3], [-1, 2]):
        with pytest.raises(UserError, match=f"^they has ids from {min(ids)} to {max(ids)}; this model knows 0 to 2$"):
            check_ids("they", ids, 3)


def test_texts_differ_in_their_keys():
    """By seed, prompt and sample."""
    assert hash_of([1, 2]) != hash_of([2, 1])
    keys = [key_of_text(*numbers) for numbers in ((0, 5, 0), (1, 5, 0), (0, 6, 0), (0, 5, 1))]
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}) == 4


def test_marks_are_not_seen_and_further_rows_are_empty():
    seen = seen_tokens([[0, 2, 2], (1,)], [[0], []], 4, rows=3)
    assert seen.tolist() == [[False, False, True, False], [False, True, False, False], [False] * 4]
    assert seen_tokens([[3]], [()], 4).tolist() == [[False, False, False, True]]
