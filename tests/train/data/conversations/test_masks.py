"""Masks where templates differ from the published shapes of test_tokens.py."""

import numpy as np
import pytest

from model.errors import UserError
from train.data.conversations.masks import render
from train.data.conversations.rows import Conversation
from train.data.conversations.template import ChatTemplate

CHAT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]
TWO_BLOCKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<{{ m.content }}>{% endgeneration %}-"
    "{% generation %}.{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def counted(source, mask, messages=CHAT, **fields):
    conversation = Conversation([dict(m) for m in messages], fields.get("tools"), "n", "row")
    rendered = render(conversation, ChatTemplate(source), [], mask)
    return "".join(c for c, counts in zip(rendered.text, rendered.counted, strict=True) if counts)


def test_the_last_message_has_all_of_its_blocks():
    assert counted(TWO_BLOCKS, "assistant") == "<b>.<d>."
    assert counted(TWO_BLOCKS, "last") == "<d>."


def test_blocks_whose_messages_cannot_be_told_are_refused():
    changed = TWO_BLOCKS.replace("{{ m.content }}{% endif %}", "{{ m.content | length }}{% endif %}")
    assert counted(changed, "assistant") == "<b>.<d>."
    with pytest.raises(UserError, match="row: the chat template has 4 generation blocks for 2 answers"):
        counted(changed, "last")


def test_templates_that_take_texts_apart():
    split = "{% for m in messages %}[{{ m.content.split('X')[0] }}]{% endfor %}"
    assert counted(split, "assistant") == "[b][d]"  # by prefixes; whose words are whose is not known
    block = "{% set x %}{% generation %}{{ messages[1].content }}{% endgeneration %}{% endset %}{{ x[:1] }}a"
    with pytest.raises(UserError, match="row: the chat template changes the text of its generation blocks"):
        counted(block, "assistant")


def test_tools_reach_the_template():
    source = "{{ tools[0].name if tools }}|{% for m in messages %}{{ m.content }};{% endfor %}"
    assert counted(source, "assistant", tools=[{"name": "f"}]) == "b;d;"
    assert counted(source, "last") == "d;"


def test_words_after_the_last_answer_do_not_count():
    assert counted("{% for m in messages %}{{ m.content }};{% endfor %}", "assistant", CHAT[:3]) == "b;"
    assert counted("{% for m in messages %}{{ m.content }};{% endfor %}", "last", CHAT[:3]) == "b;"


def test_roles_are_kept_where_contents_are_and_unknown_otherwise():
    conversation = Conversation([{"role": "user", "content": " a "}, CHAT[1]], None, "n", "row")
    trimmed = render(
        conversation, ChatTemplate("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"), [], "all"
    )
    assert trimmed.text == "[a][b]"
    np.testing.assert_array_equal(trimmed.roles, [0, 2, 0, 0, 3, 0])
    source = "{% for m in messages %}[{{ m.content | length }}{{ m.content }}]{% endfor %}"
    assert not render(conversation, ChatTemplate(source), [], "all").roles.any()


def test_an_answer_without_words_counts_as_what_the_template_writes():
    """As a call of a tool has, or an answer that a model left empty and a judge scores."""
    source = "{% for m in messages %}{{ m.role[0] }}{{ m.content }};{% endfor %}"
    source += "{% if add_generation_prompt %}a{% endif %}"
    assert counted(source, "last", [*CHAT[:3], {"role": "assistant", "content": ""}]) == ";"
