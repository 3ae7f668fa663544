import numpy as np
import pytest

from model.errors import UserError
from train.data import SentencePiece, make_tokenizer
from train.data.config import Bytes, Characters
from train.data.conversations.encoding import Encoded, covered, encode, encode_with_ends, names_of_marks
from train.data.conversations.template import BEGIN, END, SPLIT
from train.data.tokenizers.interface import BytesTokenizer, CharactersTokenizer

TEXT = "hello there, é漢🙂 <|im_end|>\n\n in  the hill<|im_start|>"


@pytest.fixture(scope="module")
def pieces():
    return make_tokenizer(
        SentencePiece(vocab_size=330), [f"hello there in the hill {word} " * 3 for word in dir(str) + dir(np)]
    )


def test_the_ends_of_tokens(tokenizers, pieces):
    letters = CharactersTokenizer(Characters(end_of_document=True), TEXT)
    for tokenizer in (*tokenizers.values(), BytesTokenizer(Bytes()), letters, pieces):
        encoded = encode_with_ends(tokenizer, TEXT)
        assert encoded.ids.tolist() == encode(tokenizer, TEXT) == tokenizer.encode_marked(TEXT).tolist()
        assert encoded.ends[-1] == len(TEXT)
        assert (np.diff(encoded.ends) >= 0).all()
        starts, stops = covered(encoded)
        assert starts[0] == 0
        assert (stops > starts).all()
        # Cut where a token ends, the parts decode to the parts of the text.
        names = {i: name for name, i in tokenizer.marks().items()}
        for k in range(1, len(encoded.ids)):
            if encoded.ends[k] > encoded.ends[k - 1] and not set(encoded.ids.tolist()) & names.keys():
                assert tokenizer.decode(encoded.ids[:k]) == TEXT[: encoded.ends[k - 1]]


def test_the_bytes_of_a_character_cover_it():
    encoded = encode_with_ends(BytesTokenizer(Bytes()), "aé🙂b")
    assert encoded.ends.tolist() == [1, 2, 2, 3, 3, 3, 3, 4]
    starts, stops = covered(encoded)
    assert list(zip(starts.tolist(), stops.tolist(), strict=True)) == [(0, 1), *[(1, 2)] * 2, *[(2, 3)] * 4, (3, 4)]


def test_marks_of_documents_and_split_names(tokenizers):
    tokenizer = tokenizers[True]
    name = "<|im_end|>"
    text = f"{BEGIN}a<|im_start|>b {name[:1] + SPLIT + name[1:]} c<|im_end|>{END}"
    encoded = encode_with_ends(tokenizer, text)
    assert encoded.ids.tolist() == encode(tokenizer, text)
    marks = tokenizer.marks()
    assert encoded.ids[0] == marks["<s>"]
    assert encoded.ids[-1] == marks["</s>"]
    assert encoded.ids.tolist().count(marks[name]) == 1
    assert encoded.ends[-1] == len(text)
    inner = [i for i in encoded.ids.tolist() if i not in marks.values()]
    assert tokenizer.decode(inner) == f"ab {name} c"
    assert names_of_marks(tokenizer)[-1] == "<s>"  # the shortest


def test_a_tokenizer_that_changes_the_text_says_so():
    class Lowering(BytesTokenizer):
        def encode(self, text):
            return super().encode(text.lower())

        encode_with_ends = CharactersTokenizer.encode_with_ends

    with pytest.raises(UserError, match="changes the text"):
        encode_with_ends(Lowering(Bytes()), "Abc")
    assert encode_with_ends(Lowering(Bytes()), "abc").ends.tolist() == [1, 2, 3]


def test_nothing():
    assert [len(part) for part in encode_with_ends(BytesTokenizer(Bytes()), "")] == [0, 0]
    assert [len(part) for part in covered(Encoded(np.zeros(0, np.int32), np.zeros(0, np.int32)))] == [0, 0]
