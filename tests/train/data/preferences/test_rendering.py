"""Ids of prompts and answers, and which of them count."""

import numpy as np
import pytest

from model.errors import UserError
from train.data.config import Bytes
from train.data.conversations.found_template import plain_template
from train.data.conversations.template import ChatTemplate
from train.data.preferences.reading import Preference
from train.data.preferences.rendering import Renderer
from train.data.tokenizers.interface import BytesTokenizer

TOKENIZER, END = BytesTokenizer(Bytes()), 256
USER = {"role": "user", "content": "hi"}


def counted_text(rendered):
    """The ids that count, as text with the end of the document as a dollar."""
    return "".join("$" if token == END else chr(token) for token in rendered.ids[rendered.counted])


def test_texts_are_encoded_apart_between_the_marks_of_a_document():
    row = Preference(prompt="ab", answers=("c", "de"), where="f, line 1")
    one, other = Renderer(TOKENIZER, None).answers(row)
    np.testing.assert_array_equal(one.ids, [END, *b"abc", END])
    np.testing.assert_array_equal(one.counted, [False, False, False, True, True])
    assert (one.prompt, other.prompt) == (3, 3)
    assert (counted_text(one), counted_text(other)) == ("c$", "de$")


def test_messages_go_through_the_template():
    answers = tuple([{"role": "assistant", "content": text}] for text in ("yes", "no"))
    row = Preference(prompt=[USER], answers=answers, where="f, line 1")
    renderer = Renderer(TOKENIZER, plain_template(TOKENIZER))
    one, other = renderer.answers(row)
    assert TOKENIZER.decode(one.ids) == "user:\nhi\nassistant:\nyes"
    assert (counted_text(one), counted_text(other)) == ("yes$", "no$")
    np.testing.assert_array_equal(one.ids[: one.prompt], other.ids[: other.prompt])
    (as_text,) = renderer.answers(Preference(prompt="hi", answers=("yes",), label=True, where="f, line 1"))
    np.testing.assert_array_equal(as_text.ids, one.ids)


def test_only_the_messages_after_the_prompt_count():
    """The prompt has an answer of the assistant, and the answer has two, with a message of the user between them."""
    say = lambda role, content: {"role": role, "content": content}  # noqa: E731
    prompt = [USER, say("assistant", "old"), say("user", "more")]
    answer = [say("assistant", "new"), say("user", "so"), say("assistant", "last")]
    renderer = Renderer(TOKENIZER, plain_template(TOKENIZER))
    (found,) = renderer.answers(Preference(prompt=prompt, answers=(answer,), label=True, where="f, line 1"))
    assert counted_text(found) == "new$last$"
    (short,) = renderer.answers(Preference(prompt=prompt, answers=(answer[:1],), label=True, where="f, line 1"))
    assert counted_text(short) == "new$"


def test_bad_rows_are_named():
    with_template = Renderer(TOKENIZER, plain_template(TOKENIZER))
    changing = ChatTemplate("{{ messages | length }}{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
                            "{% else %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}")  # fmt: skip
    several = ([{"role": "assistant", "content": "a"}, USER, {"role": "assistant", "content": "b"}],)
    asked = [USER, {"role": "assistant", "content": "old"}]
    for renderer, row, words in (
        (with_template, Preference(prompt=asked, answers=([USER],)), "an answer ends with a message of the user"),
        (Renderer(TOKENIZER, None), Preference(prompt=[USER], answers=([USER],)), "has messages, which need a chat"),
        (with_template, Preference(prompt="", answers=("a", "b")), "has no prompt, and a chat template needs messages"),
        (Renderer(BytesTokenizer(Bytes(end_of_document=False)), None), Preference(prompt="", answers=("ab", "b")),
         "there is no token before the answer"),
        (Renderer(TOKENIZER, changing), Preference(prompt=[USER], answers=several), "does not begin the conversation"),
    ):  # fmt: skip
        with pytest.raises(UserError, match="^f, line 7: ") as caught:
            renderer.answers(Preference(**{**vars(row), "where": "f, line 7"}))
        assert words in str(caught.value)
