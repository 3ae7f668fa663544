"""Labels of tokens: spaces before words count, no two tokens without a text share a label."""

import math

import pytest

from model.inference.request import TokenScore
from tests.parity.chat.templates import make_tokenizer
from tests.train.serving.servers import BYTES
from train.data.config import Characters, HuggingFace
from train.data.tokenizers.huggingface import HuggingFaceTokenizer
from train.data.tokenizers.interface import CharactersTokenizer
from train.serving.token_texts import TokenTexts, finite


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return HuggingFaceTokenizer.load(HuggingFace(path=str(path)), path)


def test_labels(tokenizer):
    texts = TokenTexts(tokenizer)
    assert [texts.label(i) for i in tokenizer.encode(" the é").tolist()] == [
        " t",
        "he",
        " ",
        "token_id:127",
        "token_id:102",
    ]
    mark = tokenizer.token_id("<|im_end|>")
    assert texts.label(mark) == f"token_id:{mark}"
    assert texts.label(0, by_id=True) == "token_id:0"
    assert texts.label(tokenizer.vocab_size) == f"token_id:{tokenizer.vocab_size}"  # a model may have more ids


def test_labels_of_a_tokenizer_without_letters():
    texts = TokenTexts(CharactersTokenizer(Characters(end_of_document=True), "+- "))
    assert [texts.label(i) for i in range(4)] == [" ", "+", "-", "token_id:3"]


def test_offsets_join_to_the_text(tokenizer):
    text = "hello thé 漢!"
    ids = tokenizer.encode(text).tolist()
    offsets = TokenTexts(tokenizer).offsets(ids)
    assert offsets[:4] == [0, 4, 5, 7]
    assert offsets == sorted(offsets)
    assert TokenTexts(BYTES).offsets(list("é!".encode())) == [0, 0, 1]


def test_entries_of_a_chat():
    score = TokenScore(97, -0.5, ((98, -0.25), (200, -3.0)))
    assert TokenTexts(BYTES).chat_entry(score) == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "b", "logprob": -0.25, "bytes": [98]},
            {"token": "token_id:200", "logprob": -3.0, "bytes": None},
        ],
    }


def test_the_own_token_is_among_the_likeliest():
    texts = TokenTexts(BYTES)
    assert texts.top_logprobs(TokenScore(99, -2.0, ((97, -0.5),))) == {"a": -0.5, "c": -2.0}
    assert texts.top_logprobs(TokenScore(97, -0.5, ((97, -0.5), (98, -1.0)))) == {"a": -0.5, "b": -1.0}


def test_numbers_are_json():
    assert [finite(x) for x in (-1.5, -math.inf, math.nan)] == [-1.5, -9999.0, -9999.0]
