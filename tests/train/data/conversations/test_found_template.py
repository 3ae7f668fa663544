import json

import pytest

from model.errors import UserError
from train.data.config import Bytes
from train.data.conversations.found_template import (
    find_chat_template,
    plain_template,
    save_template,
    template_in_file,
    template_of_dataset,
)
from train.data.tokenizers.interface import BytesTokenizer


@pytest.fixture
def tokenizer(tokenizers):
    return tokenizers[True]


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "one {{ bos_token }}", "bos_token": "<a>"}}, "one <a>"),
        ({"tokenizer_config.json": {"chat_template": "{{ bos_token }}", "bos_token": {"content": "<b>"}}}, "<b>"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "tools"},
                        {"name": "default", "template": "plain"},
                    ]
                }
            },
            "plain",
        ),
        ({"tokenizer_config.json": {"chat_template": "old"}, "chat_template.json": {"chat_template": "new"}}, "new"),
        (
            {"tokenizer_config.json": {"chat_template": "old"}, "chat_template.jinja": "file {{ eos_token }}"},
            "file </s>",
        ),
        (
            {"chat_template.jinja": "{{ eos_token }}", "special_tokens_map.json": {"eos_token": "<|im_end|>"}},
            "<|im_end|>",
        ),
    ],
)
def test_the_template_is_found_where_published_files_have_it(files, shown, tokenizer, tmp_path):
    (tmp_path / "origin").mkdir()
    for name, content in files.items():
        (tmp_path / "origin" / name).write_text(content if isinstance(content, str) else json.dumps(content))
    found = find_chat_template(tmp_path, tokenizer)
    assert (found and found.render([])) == shown


def test_a_damaged_template_is_named(tokenizer, tmp_path):
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "tokenizer_config.json").write_text('{"chat_template": 3}')
    with pytest.raises(UserError, match=r"tokenizer_config.json: chat_template: expected a text, got int"):
        find_chat_template(tmp_path, tokenizer)
    (tmp_path / "origin" / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"chat_template.jinja is not UTF-8 text; expected a file with a Jinja"):
        find_chat_template(tmp_path, tokenizer)


def test_a_template_in_a_file_and_a_saved_one(tokenizer, tmp_path):
    (tmp_path / "t.jinja").write_text("{{ bos_token }}{{ eos_token }}{{ pad_token }}")
    template = template_in_file(str(tmp_path / "t.jinja"), None, tokenizer)
    assert template.render([]) == "<s></s>"
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "tokenizer_config.json").write_text('{"pad_token": "<p>"}')
    template = template_in_file(str(tmp_path / "t.jinja"), tmp_path, tokenizer)
    assert template.render([]) == "<s></s><p>"
    save_template(tmp_path, template, [3, 4])
    found = template_of_dataset(tmp_path)
    assert (found.template.render([]), found.stop_tokens) == ("<s></s><p>", (3, 4))
    assert template_of_dataset(tmp_path / "origin") is None
    with pytest.raises(UserError, match="no chat template at missing; expected a file"):
        template_in_file("missing", None, tokenizer)


def test_the_plain_template_needs_an_end():
    assert plain_template(BytesTokenizer(Bytes())).render([]).endswith("assistant:\n")
    with pytest.raises(UserError, match="ends an answer with the token that ends documents"):
        plain_template(BytesTokenizer(Bytes(end_of_document=False)))
