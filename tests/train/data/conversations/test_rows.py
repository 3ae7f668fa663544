import gzip
import json

import pytest

from model.errors import UserError
from train.data.conversations.rows import Row, conversation_of, files_of, fingerprint, messages_of, read_rows

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def conversation(fields):
    return conversation_of(Row(fields, "f:3", "f, line 3"))


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"conversations": [USER, ANSWER], "id": 7},
        {"prompt": "a", "completion": "b"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]},
    ],
)
def test_the_common_spellings(fields):
    found = conversation(fields)
    assert found.messages == [USER, ANSWER]
    assert (found.tools, found.name, found.where) == (None, "f:3", "f, line 3")


def test_systems_tools_and_further_fields():
    system = {"role": "system", "content": "s"}
    assert conversation({"messages": [USER, ANSWER], "system": "s"}).messages == [system, USER, ANSWER]
    tools = [{"name": "f"}]
    assert conversation({"messages": [USER], "tools": tools}).tools == tools
    assert conversation({"messages": [USER], "tools": json.dumps(tools)}).tools == tools
    assert conversation({"messages": [USER], "tools": []}).tools is None
    call = {"role": "model", "content": None, "tool_calls": [{"name": "f"}]}
    found = conversation({"messages": [USER, call, {"role": "observation", "content": "3"}]}).messages
    assert [message["role"] for message in found] == ["user", "assistant", "tool"]
    assert found[1]["tool_calls"] == [{"name": "f"}]
    assert conversation({"messages": [USER, call | {"content": ""}]}).messages[1]["content"] == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"text": "x"},
            r'expected "messages", "conversations", or "prompt" with "completion"; its fields are \'text\'',
        ),
        ({"messages": "x"}, "messages: expected a list of messages, got a text"),
        ({"messages": []}, "messages: expected a list of messages, got an empty list"),
        ({"messages": ["x"]}, "messages: message 1: expected an object with role and content, got a text"),
        (
            {"messages": [USER, {"role": "robot", "content": "b"}]},
            "message 2: role 'robot' is unknown; expected one of",
        ),
        ({"messages": [{"content": "b"}]}, "message 1: role None is unknown"),
        (
            {"messages": [USER, {"role": "assistant", "content": " "}]},
            r"message 2 \(assistant\): content is empty; leave",
        ),
        (
            {"messages": [USER, {"role": "assistant"}]},
            r"message 2 \(assistant\): content: expected a text, got nothing",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part is 'image'; only parts of text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a character"),
        ({"prompt": "", "completion": "b"}, "prompt is empty"),
        ({"prompt": 3, "completion": "b"}, "prompt: expected a text or a list of messages, got a number"),
        ({"messages": [{"role": "system", "content": "x"}], "system": "s"}, "its first message is one too"),
        ({"messages": [USER], "tools": "{"}, "tools is not JSON"),
        ({"messages": [USER], "tools": {"a": 1}}, "tools: expected a list of objects, got an object"),
    ],
)
def test_refused_with_the_row(fields, words):
    with pytest.raises(UserError, match=f"^f, line 3.*{words}"):
        conversation(fields)


def test_files(write_rows, tmp_path):
    path = write_rows({"n": 1}, "\n", {"n": 2})
    assert [(row.fields, row.name) for row in read_rows(str(path))] == [
        ({"n": 1}, "rows.jsonl:1"),
        ({"n": 2}, "rows.jsonl:3"),
    ]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.jsonl.gz").write_bytes(gzip.compress(b'\xef\xbb\xbf{"n": 3}\n'))
    (tmp_path / "more" / "b.json").write_text('[{"n": 4}, {"n": 5}]')
    rows = list(read_rows(str(tmp_path / "more")))
    assert [row.fields["n"] for row in rows] == [3, 4, 5]
    assert rows[2].where.endswith("b.json, item 2")
    before = fingerprint(str(tmp_path / "more"))
    (tmp_path / "more" / "b.json").write_text('[{"n": 4}, {"n": 6}]')
    assert fingerprint(str(tmp_path / "more")) != before
    (tmp_path / "more" / "c.txt").write_text("x")
    with pytest.raises(UserError, match=r"c.txt is no file of rows; expected .jsonl"):
        files_of(str(tmp_path / "more"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"n": 1', "line 2 is not JSON: Expecting ',' delimiter"),
        ("[1]", "line 2: expected an object, got a list"),
        ("[" * 100_000, "line 2 holds JSON that is nested too deeply"),
    ],
)
def test_broken_lines_are_named(line, words, write_rows):
    path = write_rows({"n": 1}, line + "\n")
    with pytest.raises(UserError, match=f"rows.jsonl, {words}"):
        list(read_rows(str(path)))


def test_bytes_that_are_not_utf8_and_an_object_in_place_of_an_array(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"n": "\xff"}\n')
    with pytest.raises(UserError, match=r"a.jsonl, line 1 is not UTF-8"):
        list(read_rows(str(tmp_path / "a.jsonl")))
    (tmp_path / "b.json").write_text('{"n": 1}')
    with pytest.raises(UserError, match=r"b.json: expected an array of objects"):
        list(read_rows(str(tmp_path / "b.json")))


def test_a_text_has_the_role_that_its_field_gives_it():
    assert messages_of("x", "w", text_role="assistant") == [{"role": "assistant", "content": "x"}]
    with pytest.raises(UserError, match="w: expected a list of messages, got a text"):
        messages_of("x", "w")
