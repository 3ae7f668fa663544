"""The spellings of preferences, and the rows that are refused."""

import json

import pytest

from model.errors import UserError
from train.data.conversations.rows import Row
from train.data.preferences.reading import preference_of, read_preferences

WHERE = "pairs.jsonl, line 3"
USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "2 + 2"), ("assistant", "4"), ("assistant", "5")))


def preference(**fields):
    return preference_of(Row(fields, "pairs.jsonl:3", WHERE))


def refusal(**fields):
    with pytest.raises(UserError) as caught:
        preference(**fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (("prompt", "chosen", "rejected"), str),
        (("question", "response_j", "response_k"), str),
        (("instruction", "preferred", "dispreferred"), str),
    ],
)
def test_texts_under_their_usual_names(names, form):
    found = preference(**dict(zip(names, ("2 + 2 =", " 4", " 5"), strict=True)))
    assert (found.prompt, found.answers, found.label, found.margin) == ("2 + 2 =", (" 4", " 5"), None, None)
    assert (found.name, found.where) == ("pairs.jsonl:3", WHERE)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "2 + 2", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        {"chosen": [{"from": "human", "value": "2 + 2"}, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_messages_have_one_form(fields):
    found = preference(**fields)
    assert found.prompt == [USER]
    assert found.answers == ([GOOD], [BAD])


def test_an_implicit_prompt_of_texts_ends_at_white_space():
    found = preference(chosen="Human: hi\n\nAssistant: Yes, surely", rejected="Human: hi\n\nAssistant: Yes, sorry")
    assert found.prompt == "Human: hi\n\nAssistant: Yes, "
    assert found.answers == ("surely", "sorry")
    one_longer = preference(chosen="a b", rejected="a b c")
    assert (one_longer.prompt, one_longer.answers) == ("a ", ("b", "b c"))


def test_a_system_text_is_the_first_message():
    found = preference(system="be brief", question="2 + 2", chosen="4", rejected="5")
    assert found.prompt == [{"role": "system", "content": "be brief"}, USER]
    assert found.answers == ([GOOD], [BAD])


def test_margins_and_labels():
    assert preference(prompt="x", chosen="a", rejected="b", margin=2).margin == 2.0
    found = preference(prompt="x", completion="a", label=False)
    assert (found.prompt, found.answers, found.label) == ("x", ("a",), False)
    assert found.unpaired() == (found,)
    good, bad = preference(prompt="x", chosen="a", rejected="b", margin=1.0).unpaired()
    assert (good.answers, good.label, good.margin) == (("a",), True, None)
    assert (bad.answers, bad.label, bad.where) == (("b",), False, WHERE)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "'chosen' and 'rejected' are equal"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [GOOD]}, "'chosen' and 'rejected' are equal"),
        ({"prompt": "x", "chosen": "a"}, "no field 'rejected'; its fields are 'prompt', 'chosen'"),
        ({"prompt": "x", "rejected": "a"}, "no field 'chosen'"),
        ({"text": "x"}, "no field 'chosen'; its fields are 'text'. A pair has prompt, chosen and rejected"),
        ({"prompt": "x", "chosen": "a", "rejected": " "}, "'rejected' is empty after the prompt"),
        ({"chosen": "a b ", "rejected": "a b c"}, "'chosen' is empty after the prompt"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [USER, BAD]}, "'chosen' is empty after the prompt"),
        ({"prompt": "x", "question": "y", "chosen": "a", "rejected": "b"}, "the fields 'prompt' and 'question' mean"),
        ({"prompt": "x", "chosen": [GOOD], "rejected": "b"}, "one of 'chosen' and 'rejected' is a text"),
        ({"prompt": [USER], "chosen": "a", "rejected": "b"}, "one of the prompt and 'chosen' is a text"),
        ({"prompt": "x", "chosen": 4, "rejected": 5}, "chosen: expected a list of messages, got a number"),
        ({"prompt": "x", "chosen": "\ud800", "rejected": "b"}, "chosen: half of a character"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "margin": -1}, "'margin' is -1, expected by how much"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "margin": True}, "'margin' is True"),
        ({"prompt": "x", "completion": "a"}, "no field 'label' beside 'completion'"),
        ({"prompt": "x", "completion": "a", "label": "yes"}, "'label' is 'yes', expected true or false"),
        ({"prompt": "x", "completion": "", "label": True}, "'completion' is empty, so that nothing is learned"),
        ({"prompt": [USER], "completion": "a", "label": True}, "one of the prompt and 'completion' is a text"),
        ({"system": 3, "prompt": "x", "chosen": "a", "rejected": "b"}, "'system' is 3, expected a text"),
    ],
)
def test_bad_rows_are_named(fields, words):
    message = refusal(**fields)
    assert message.startswith(WHERE)
    assert words in message


def test_files_are_read_in_order_with_their_lines(tmp_path):
    rows = [{"prompt": "x", "chosen": "a", "rejected": str(i)} for i in range(3)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    found = list(read_preferences(str(path)))
    assert [row.answers[1] for row in found] == ["0", "1", "2"]
    assert [row.where for row in found] == [f"{path}, line {n}" for n in (1, 3, 5)]
    path.write_text('{"prompt": ')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        list(read_preferences(str(path)))
