import numpy as np
import pytest

from model.errors import UserError
from model.options.tree import check
from train.data import Numbers, StreamDecoder, load_tokenizer, make_tokenizer, save_tokenizer


def test_ids_are_words(tmp_path):
    tokenizer = make_tokenizer(Numbers(vocab_size=12), [])
    ids = tokenizer.encode(" 0 11\n3  3 ")
    assert (ids.tolist(), ids.dtype) == ([0, 11, 3, 3], np.int32)
    assert tokenizer.decode(ids) == "0 11 3 3 "
    assert tokenizer.encode("").tolist() == []
    assert (tokenizer.begin_of_document, tokenizer.end_of_document, tokenizer.vocab_size) == (None, None, 12)
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.option == Numbers(vocab_size=12)
    assert again.fingerprint() == tokenizer.fingerprint() != make_tokenizer(Numbers(vocab_size=13), []).fingerprint()


def test_a_stream_has_the_decoded_text():
    tokenizer = make_tokenizer(Numbers(vocab_size=3), [])
    decoder = StreamDecoder(tokenizer)
    assert "".join(decoder.push([i]) for i in (2, 0, 1)) + decoder.flush() == tokenizer.decode([2, 0, 1])


@pytest.mark.parametrize("word", ["3", "-1", "01", "a", "1.0"])
def test_other_words_are_refused(word):
    with pytest.raises(UserError, match=f"'{word}' is no token of this model: its tokens are the numbers 0 to 2"):
        make_tokenizer(Numbers(vocab_size=3), []).encode(f"0 {word}")


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(UserError, match="vocab_size: expected from 1 to"):
        check(Numbers(vocab_size=0))
