import inspect
import random
import textwrap

import pytest

from train.evaluation.parsing import ParseShare, is_python, parse_share
from train.generation.samples import Sample

WHOLE = '"""Doc."""\n\nimport os\n\n\ndef f(a):\n    return [a,\n            os]\n'


@pytest.mark.parametrize("text", [WHOLE, "x = 1", "return 3\n"])
def test_whole_files_are_what_ast_parse_says(text):
    assert is_python(text, ended=True)


@pytest.mark.parametrize(
    "text", ["def f(:\n", "if x:\n", "x = (1,\n", '"""open\n', "  x = 1\n", "a b\n", "", " \n", "x\0y"]
)
def test_whole_files_that_are_not(text):
    assert not is_python(text, ended=True)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\ndef f(:",  # what is half is the last line
        "x = 1\nif x:\n",
        "x = (1,\n     2,\n",
        '"""an open text\nwith more\n',
        "try:\n    x\n",
        "@decorator\n",
        "class A:\n    def f(self):\n        for x in y:\n",
    ],
)
def test_files_cut_off_need_only_be_a_beginning(text):
    assert is_python(text, ended=False)


@pytest.mark.parametrize(
    "text",
    ["x = 1", "def f(:\n    pass\nx", "x = 1\n  y = 2\n", "a b\nc\n", "x = (1,]\ny\n", "\n\nhalf", "except:\n\n"],
)
def test_files_cut_off_that_are_wrong_before_their_end(text):
    assert not is_python(text, ended=False)


def test_every_beginning_of_real_code_counts_and_damage_is_found():
    source = inspect.getsource(textwrap)
    draw = random.Random(0)
    first = source.index("\n", source.index("\n") + 1) + 1
    for _ in range(60):
        cut = draw.randrange(first, len(source))
        assert is_python(source[:cut], ended=False), source[:cut][-200:]
    damaged = source.replace("def wrap(", "def wrap((", 1)
    assert not is_python(damaged[: len(damaged) - 20], ended=False)


def test_a_deep_nest_is_no_crash():
    assert not is_python("(" * 100_000 + ")" * 100_000, ended=True)


def test_odd_escapes_warn_nobody(recwarn):
    assert is_python('x = "\\d"\n', ended=True)
    assert not recwarn.list


def test_the_share():
    share = parse_share([Sample("x = 1", True), Sample("x =", True), Sample("x = 1\ny = ", False), Sample("", True)])
    assert share == ParseShare(count=4, parsed=2)
    assert share.share == 0.5
    assert parse_share([]).share == 0.0
