"""Chat templates: refusals in words, nothing beyond the sandbox, the borders of answers."""

import pytest

from model.errors import UserError
from tests.parity.chat.templates import TEMPLATES
from train.data.conversations import template as chat_template
from train.data.conversations.template import ChatTemplate


def test_the_last_message_is_continued():
    template = ChatTemplate(TEMPLATES["chatml"])
    chat = [{"role": "system", "content": "s"}, {"role": "assistant", "content": "The answer is "}]
    assert template.render(chat, continue_last=True).endswith("<|im_start|>assistant\nThe answer is ")
    with pytest.raises(UserError, match="leaves out the last message"):
        ChatTemplate("{{ messages[0].content }}").render(chat, continue_last=True)
    with pytest.raises(UserError, match="no last message with a text"):
        template.render([], continue_last=True)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{% set _ = messages.append(1) %}", "SecurityError"),
        ("{{ missing.field }}", "'missing' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ raise_exception('no system here') }}", "refuses these messages: no system here"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{{ range(10**9) | list }}", "OverflowError"),
    ],
)
def test_a_template_that_fails_says_why(source, words):
    with pytest.raises(UserError, match="the chat template") as failed:
        ChatTemplate(source).render([{"role": "user", "content": "x"}])
    assert words in str(failed.value)


def test_a_template_that_is_none():
    with pytest.raises(UserError, match="is not a Jinja template: line 2: unexpected '}'"):
        ChatTemplate("a\n{{ } }}")


def test_the_time_is_that_of_now(monkeypatch):
    class Then(chat_template.datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat_template.datetime, "datetime", Then)
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}").render([]) == "26 Jul 2024"


def test_the_borders_of_answers_are_marked_and_prompts_have_none():
    source = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    template = ChatTemplate(source)
    assert template.marks_answers
    assert not ChatTemplate("{{ messages[0].content }}").marks_answers
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = template.render_marked(chat)
    assert text == f"a{chat_template.ANSWER}b{chat_template.ANSWER_END}"
    assert chat_template.unmarked(text) == template.render(chat) == "ab"


def test_an_assignment_in_a_block_ends_with_it():
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert ChatTemplate(source).render([]) == "21"


def test_private_characters_of_a_message_are_replaced():
    text = "".join(map(chr, range(0xFDD0, 0xFDF0)))
    assert chat_template.protected(text, []) == "\ufffd" * 32
    assert chat_template.protected("__x__x__", ["__x__"]).replace(chat_template.SPLIT, "") == "__x__x__"
    changed = chat_template.mapped({"a": ["x", 1, None], "b": {"c": "y"}}, str.upper)
    assert changed == {"a": ["X", 1, None], "b": {"c": "Y"}}


def test_the_plain_template_has_tools_and_calls():
    template = ChatTemplate(chat_template.PLAIN)
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
        {"role": "tool", "content": "3"},
    ]
    text = template.render(chat, variables={"tools": [{"n": 1}]})
    begin, end = chat_template.BEGIN, chat_template.END
    assert text == f'{begin}tools:\n[{{"n": 1}}]\nuser:\na\nassistant:\n[{{"name": "f"}}]{end}tool:\n3\nassistant:\n'
