"""Ids pushed in any groups give the text that is decoded from all ids at once."""

from hypothesis import given, settings

from tests.train.data.conftest import ids_and_groups, streamed
from train.data import Bytes, make_tokenizer
from train.data.tokenizers.streaming import common_prefix, complete_characters


@settings(max_examples=120)
@given(drawn=ids_and_groups(256, 0))
def test_a_stream_of_bytes_is_pythons_text(drawn):
    assert streamed(make_tokenizer(Bytes(), []), *drawn) == bytes(drawn[0]).decode("utf-8", "replace")


def test_characters_of_bytes():
    assert complete_characters("a\u6cb3".encode() + b"\xe6\xb2") == ("a\u6cb3", b"\xe6\xb2")
    assert complete_characters(b"\xe6\xb2a\xff") == ("\ufffd\ufffda\ufffd", b"")
    assert common_prefix("abc", "abd") == "ab"
    assert common_prefix("ab", "abd") == "ab"
