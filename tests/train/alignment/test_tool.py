"""The tokens that a tool puts between two answers, and rollouts of several turns."""

import pytest

from model.errors import UserError
from train.alignment.drawing import Answer
from train.alignment.tool import ToolTurns
from train.data.config import Bytes
from train.data.conversations.found_template import plain_template
from train.data.conversations.template import ChatTemplate
from train.data.prompts import Prompt
from train.data.tokenizers.interface import make_tokenizer
from train.objectives.rollout_options import Tool

TOOL = """
def again(prompt, answer, fields):
    if answer == "number":
        return 7
    return None if answer == fields["answer"] else f"{answer} is wrong"
"""
TOKENIZER = make_tokenizer(Bytes(), ())
END = TOKENIZER.end_of_document


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    """A function that makes the turns of a template."""
    path = tmp_path_factory.mktemp("tool") / "own.py"
    path.write_text(TOOL)
    made = []

    def turns(template):
        made.append(ToolTurns(Tool(function=f"{path}:again"), TOKENIZER, template))
        return made[-1]

    yield turns
    for one in made:
        one.close()


def prompt(messages=None):
    return Prompt([1, 2], "say abc", {"answer": "abc"}, "prompts.jsonl, line 3", messages)


def test_a_text_follows_as_it_is_and_a_message_by_the_template(tool):
    of_texts, of_messages = tool(None), tool(plain_template(TOKENIZER))
    assert TOKENIZER.decode(of_texts(prompt(), "ab", 98)) == "ab is wrong"
    assert of_texts(prompt(), "abc", 98) is None
    asked = prompt([{"role": "user", "content": "say abc"}])
    ended, cut = (of_messages(asked, "ab", last) for last in (END, 98))
    assert TOKENIZER.decode(ended) == "tool:\nab is wrong\nassistant:\n"
    assert cut == [END, *ended]  # the mark that ends an answer is written where the answer has none
    with pytest.raises(UserError, match="a tool returns a text or None, got int, for prompts.jsonl, line 3"):
        of_texts(prompt(), "number", 98)


def test_a_template_that_does_not_go_on_after_an_answer_is_refused(tool):
    changing = ChatTemplate("{{ messages | length }}{{ messages[-1].content }}", where="a counting template")
    with pytest.raises(UserError, match="a counting template does not go on after an answer"):
        tool(changing)(prompt([{"role": "user", "content": "say abc"}]), "ab", END)


def test_answers_are_joined():
    first, second = (Answer([k, k], [True, True], [-0.5 * k, -1.0], 0, k == 2) for k in (1, 2))
    joined = first.joined([9], second)
    assert joined == Answer([1, 1, 9, 2, 2], [True] * 2 + [False] + [True] * 2, [-0.5, -1, 0, -1, -1], 3, True)
