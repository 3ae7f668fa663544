"""Constraints by llguidance: drawn texts are those that other readers of schemas and expressions accept."""

import json
import re
import sys

import jsonschema
import numpy as np
import pytest

from model.errors import UserError
from model.inference.constraint import Follower
from tests.model.inference.constraints import bits
from tests.train.data.conftest import prose
from train.data import SentencePiece, make_tokenizer
from train.data.config import Bytes, Characters
from train.generation.constraints import ANY_OBJECT, Constraints, Form

BYTES = make_tokenizer(Bytes(end_of_document=True), [])
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def pieces():
    return make_tokenizer(SentencePiece(vocab_size=400), [prose(0, 3000)])


def drawn(tokenizer, form, seed, most=400):
    """A text of random tokens among those that may come, and the reason for its end."""
    end = tokenizer.end_of_document
    follower = Follower(Constraints(tokenizer).of(form), (end,), tokenizer.vocab_size)
    rng, ids = np.random.default_rng(seed), []
    while follower.ended_by is None and len(ids) < most:
        token = int(rng.choice(bits(follower.allowed_W)))
        if token == end:
            return tokenizer.decode(ids), "end"
        ids.append(token)
        follower.accept(token)
    return tokenizer.decode(ids), follower.ended_by


@pytest.mark.parametrize("seed", range(4))
def test_json_is_that_of_its_schema(seed, pieces):
    for tokenizer in (BYTES, pieces):
        text, ended_by = drawn(tokenizer, Form.json(SCHEMA), seed)
        assert ended_by == "constraint"
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("seed", range(4))
def test_an_expression_matches_the_whole_text(seed, pieces):
    for tokenizer in (BYTES, pieces):
        text, ended_by = drawn(tokenizer, Form("regex", r"(ab|cd){2,4}-[0-9ä]*"), seed)
        assert ended_by == "end"
        assert re.fullmatch(r"(ab|cd){2,4}-[0-9ä]*", text)


def test_choices_and_grammars(pieces):
    choices = ['he said "hi"\n', "hello", "he", "grün"]
    assert {drawn(pieces, Form.choice(choices), seed)[0] for seed in range(20)} == set(choices)
    lark = 'start: "<" (A | B) ">"\nA: "x"+\nB: /y[0-9]/'
    assert all(re.fullmatch("<(x+|y[0-9])>", drawn(pieces, Form("grammar", lark), seed)[0]) for seed in range(9))
    gbnf = 'root ::= "yes" | "no" " "? digit\ndigit ::= [0-9]'
    assert all(re.fullmatch("yes|no ?[0-9]", drawn(BYTES, Form("grammar", gbnf), seed)[0]) for seed in range(9))


def test_guesses_are_followed_and_taken_back():
    follower = Follower(Constraints(BYTES).of(Form("regex", "ab[0-9]{2}c?")), (256,), 257)
    masks = [bits(mask) for mask in follower.after(list(b"ab1xz"))]
    assert masks == [[98], list(b"0123456789"), list(b"0123456789")]
    assert bits(follower.allowed_W) == [97]
    for token in b"ab12":
        follower.accept(token)
    assert bits(follower.allowed_W) == [99, 256]
    assert follower.after([99]) == []
    follower.accept(99)
    assert follower.ended_by == "constraint"


def test_equal_forms_are_compiled_once():
    constraints = Constraints(BYTES)
    assert constraints.of(Form.json(SCHEMA)) is constraints.of(Form.json(dict(SCHEMA)))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form("regex", "(abc"), r'the regular expression cannot be used: .*invalid regex "\(abc".*unclosed group$'),
        (Form("json", "{"), "the JSON schema cannot be used: EOF while parsing an object"),
        (Form.json({"type": "strin"}), "the JSON schema cannot be used: Invalid type: strin"),
        (Form.json({"pattern": "(?=a)b", "type": "string"}), "look-around, including look-ahead and look-behind, is"),
        (Form.json({"type": "array", "uniqueItems": True}), r'Unimplemented keys: \["uniqueItems"\]'),
        (Form("grammar", "root ::= foo"), "the grammar cannot be used: .*Rule 'foo' not found"),
        (Form("regex", ""), "the regular expression allows only the empty text"),
        (Form("grammar", "start: 'a'"), "the grammar cannot be used: 1.8.: lexer error"),
    ],
)
def test_what_cannot_be_used_is_named(form, message):
    with pytest.raises(UserError, match=message):
        Constraints(BYTES).of(form)


def test_a_vocabulary_that_cannot_write_json_is_refused():
    letters = make_tokenizer(Characters(), ["abc"])
    with pytest.raises(UserError, match="the JSON schema allows no text that this model's tokens can write"):
        Constraints(letters).of(ANY_OBJECT)
    assert drawn_letters(letters)


def drawn_letters(tokenizer):
    """A text of letters that the vocabulary has, of an expression with more."""
    follower, ids = Follower(Constraints(tokenizer).of(Form("regex", "[a-z]{9}")), (), tokenizer.vocab_size), []
    while follower.ended_by is None:
        assert bits(follower.allowed_W) == [0, 1, 2]
        ids.append(bits(follower.allowed_W)[len(ids) % 3])
        follower.accept(ids[-1])
    return tokenizer.decode(ids) == "abcabcabc"


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"need the package llguidance: pip install 'cairn-lm\[constrained\]'"):
        Constraints(BYTES).of(ANY_OBJECT)
