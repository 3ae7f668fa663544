import gzip

import pytest

from model.errors import UserError
from train.generation.prompts import Prompt, from_flags, read_prompts


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("a.txt", b"the cat\nold", [("the cat", 1), ("old", 2)]),
        ("a.txt", b"\xef\xbb\xbfthe cat\r\n\r\n  \r\n old \r\n", [("the cat", 1), (" old ", 4)]),
        ("a.txt", b"a\0b\n\xc2\x85\xe2\x80\xa8\n\x0cx\n", [("a\0b", 1), ("\x0cx", 3)]),
        ("a", b'{"prompt": "a"}\n', [('{"prompt": "a"}', 1)]),
        ("a.jsonl", b'{"prompt": "two\\nlines", "more": 1}\n\n{"prompt": ""}\n', [("two\nlines", 1), ("", 3)]),
        ("A.JSONL", b'\xef\xbb\xbf{"prompt": "\\ud83d\\ude00"}', [("\U0001f600", 1)]),
        ("a.ndjson", b'{"prompt": "a"}', [("a", 1)]),
    ],
)
def test_prompts_of_a_file(name, content, prompts, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    assert read_prompts(path) == [Prompt(text, f"{path}, line {line}") for text, line in prompts]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\nok\n\xff", "a.txt is not UTF-8 at byte 6, line 3"),
        ("a.txt", b" \n\n", "a.txt holds no prompt"),
        ("a.json", b'["a"]', "a .json file is neither"),
        ("a.jsonl", b'{"prompt": "a"}\n["a"]', """a.jsonl, line 2: expected {"prompt": "..."}, got '["a"]'"""),
        ("a.jsonl", b'{"prompt": 5}', "a.jsonl, line 1: expected"),
        ("a.jsonl", b'{"Prompt": "a"}', "a.jsonl, line 1: expected"),
        ("a.jsonl", b'{"prompt": "a\\ud800"}', "a.jsonl, line 1: the prompt is not UTF-8 at character 1"),
        ("a.jsonl", b'{"prompt": ' + b"[" * 100_000, "a.jsonl, line 1: expected"),
        ("a.jsonl", b'{"prompt": ' + b"9" * 5000 + b"}", "a.jsonl, line 1: expected"),
        ("a.txt", None, "a.txt cannot be read: Is a directory"),
    ],
)
def test_a_file_that_is_wrong_names_the_line(name, content, message, tmp_path):
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_prompts(tmp_path / name)
    assert message in str(caught.value)


def test_texts_of_flags():
    assert from_flags(["a", "", "é"], "prompt") == [("a", "prompt 1"), ("", "prompt 2"), ("é", "prompt 3")]
    with pytest.raises(UserError, match="--stop number 2 is not UTF-8 at character 1; use a terminal with UTF-8$"):
        from_flags(["a", "b\udcff"], "stop")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"a prompt", mtime=0), "is not UTF-8 text, but gzip data under another name; unpack it"),
        ("a prompt".encode("utf-16"), "is not UTF-8 text, but UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"),
        (b"ok\ncaf\xe9\n", "is not UTF-8 at byte 6, line 2; convert it: iconv -f OLD -t UTF-8"),
    ],
)
def test_a_file_that_is_no_utf8_says_how_to_mend_it(content, words, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_prompts(tmp_path / "prompts.txt")
