import pytest

from train.alignment.answers import judge


@pytest.mark.parametrize(
    ("text", "answer", "strict", "lenient"),
    [
        ("abce", "abce", True, True),
        (" abce\n", "abce", True, True),
        ("The answer is ABCE.", "abce", False, True),
        ("abce or abcd", "abce", False, False),
        ("xabce", "abce", False, False),
        ("", "abce", False, False),
        ("22", "22", True, True),
        ("It is 2, I think", "2", False, False),
        ("so it is 3.5!", "3.5", False, True),
        ("so it is 3.5!", "5", False, False),
        ("it is 3", "-3", False, False),
        ("so x=-3.", "-3", False, True),
        ("so -3", "3", False, False),
        ("5 - 3", "3", False, True),
        ("the capital: New York", "new york", False, True),
        ("York", "new york", False, False),
        ("?!", "?!", True, True),
        ("so ?!", "?!", False, False),
    ],
)
def test_the_whole_text_or_its_last_words(text, answer, strict, lenient):
    assert judge(text, answer) == (strict, lenient)
