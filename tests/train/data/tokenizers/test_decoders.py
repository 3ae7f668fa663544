"""Ids pushed one by one give the text that the library decodes from all ids at once, as early as possible."""

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers import Regex, decoders

from tests.tiers import representatives
from tests.train.data.conftest import ids_and_groups, streamed
from train.data import HuggingFace, StreamDecoder, make_tokenizer
from train.data.tokenizers.decoders import TokenDecoder
from train.data.tokenizers.streaming import AtEndDecoder

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
# Pieces of words, of bytes, of spaces in several spellings, and texts that decoders look for.
TOKENS = [
    *("<unk>", "<s>", *BYTE_TOKENS, "\u2581", "\u2581a", "b", "\u2581\u2581", "a\u2581b", "##c", "##", "x</w>"),
    *("y</w>z", "</w>", "|", "<pad>", ".", ",", "'s", "n't", " do not", "\u0120", "\u0120a", "\u00c3", "\u00a9"),
    *("\u00e4\u00bd", "\u0142", "  ", " q ", "\ufffd", "\u6cb3", "\u2581\u6cb3", "ab", "a"),
]
SEQUENCE = decoders.Sequence
FALLBACK = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
STREAMED = {
    "no decoder": None,
    "LLaMA 2": SEQUENCE([*FALLBACK, decoders.Strip(" ", 1, 0)]),
    "Gemma": SEQUENCE(FALLBACK),
    "bytes alone": decoders.ByteFallback(),
    "GPT-2": decoders.ByteLevel(),
    "T5": decoders.Metaspace(),
    "no first space": decoders.Metaspace(prepend_scheme="never"),
    "BERT": decoders.WordPiece(),
    "BERT as it is": decoders.WordPiece(cleanup=False),
    "GPT-1": decoders.BPEDecoder(),
    "CTC": decoders.CTC(),
    "strip": decoders.Strip("a", 1, 0),
    "replace": decoders.Replace(Regex("[ab]+"), "-"),
    "after a text is joined": SEQUENCE([decoders.Fuse(), decoders.Replace("ab", "x"), decoders.Strip("a", 2, 0)]),
    "tokens of tokens": SEQUENCE([decoders.WordPiece(), decoders.Strip("b", 1, 0), decoders.Metaspace()]),
    "nested": SEQUENCE([SEQUENCE([decoders.CTC(), decoders.ByteFallback()]), decoders.Strip("b", 1, 0)]),
    "GPT-1, joined": SEQUENCE([decoders.BPEDecoder(), decoders.Fuse()]),
}
WHOLE = {
    "a pattern over all": SEQUENCE([decoders.Fuse(), decoders.Replace(Regex("a+b"), "x")]),
    "the last token, then others": SEQUENCE([decoders.BPEDecoder(), decoders.WordPiece(), decoders.Metaspace()]),
    "bytes of the joined": SEQUENCE([decoders.Fuse(), decoders.ByteLevel()]),
}


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A function that makes the tokenizer of a decoder: ours, and the library's."""
    folder = tmp_path_factory.mktemp("decoders")
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    made = {}

    def make(name):
        if name not in made:
            library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
            library.add_special_tokens(["<s>"])
            if (decoder := (STREAMED | WHOLE)[name]) is not None:
                library.decoder = decoder
            library.save(str(folder / "tokenizer.json"))
            made[name] = make_tokenizer(HuggingFace(path=str(folder / "tokenizer.json")), []), library
        return made[name]

    return make


@pytest.mark.parametrize(
    "name", representatives([*STREAMED, *WHOLE], "LLaMA 2", "BERT", "CTC", "nested", "a pattern over all")
)
@settings(max_examples=120)
@given(drawn=ids_and_groups(len(TOKENS), TOKENS.index("<0x00>")))
def test_a_stream_joined_is_the_librarys_text(hugging_face, name, drawn):
    ours, library = hugging_face(name)
    assert streamed(ours, *drawn) == library.decode(drawn[0])


def test_which_decoders_are_streamed(hugging_face):
    assert all(isinstance(hugging_face(name)[0].incremental_decoder(), TokenDecoder) for name in STREAMED)
    assert all(isinstance(hugging_face(name)[0].incremental_decoder(), AtEndDecoder) for name in WHOLE)


def push_each(tokenizer, tokens):
    """The texts that the push of each token returns, and then the flush."""
    stream = StreamDecoder(tokenizer)
    return [stream.push([TOKENS.index(token)]) for token in tokens] + [stream.flush()]


def test_text_comes_as_soon_as_it_is_final(hugging_face):
    of = {name: hugging_face(name)[0] for name in ("LLaMA 2", "GPT-2", "GPT-1", "BERT")}
    # One extra byte turns all bytes before it into U+FFFD, so a run of bytes is final only when it has ended.
    river = [f"<0x{byte:02X}>" for byte in "\u6cb3".encode()]
    assert push_each(of["LLaMA 2"], ["\u2581a", *river, "b"]) == ["a", "", "", "", "\u6cb3b", ""]
    assert push_each(of["LLaMA 2"], ["b", *river[:2]]) == ["b", "", "", "\ufffd\ufffd"]
    assert push_each(of["GPT-2"], ["\u0120a", "\u00c3", "\u00a9", "\u00c3", "b"]) == [
        " a",
        "",
        "\u00e9",
        "",
        "\ufffdb",
        "",
    ]
    assert push_each(of["GPT-1"], ["x</w>", "x</w>"]) == ["x", " x", ""]
    assert push_each(of["BERT"], ["b", "##c", "a"]) == ["b", "c", " a", ""]


@pytest.mark.parametrize("name", STREAMED)
def test_the_work_of_a_token_does_not_grow(hugging_face, name, monkeypatch):
    """Each token of a long text is decoded as it arrives: nothing is decoded again from the beginning."""
    ours, library = hugging_face(name)
    asked = []
    monkeypatch.setattr(type(ours), "decode", lambda *a: asked.append(a))
    stream = StreamDecoder(ours)
    ids = [i % (ours.vocab_size - 2) + 2 for i in range(3000)]
    text = "".join([stream.push([i]) for i in ids]) + stream.flush()
    assert text == library.decode(ids)
    assert asked == []


def test_a_known_prompt_ends_and_its_unfinished_character_continues(hugging_face):
    ours, _ = hugging_face("LLaMA 2")
    river = [TOKENS.index(f"<0x{byte:02X}>") for byte in "\u6cb3\u6cb3".encode()]
    for name, cut in ((n, c) for n in ("LLaMA 2", "bytes alone") for c in range(7)):
        stream = StreamDecoder(hugging_face(name)[0])
        before = stream.push(river[:cut]) + stream.end_known_text()
        assert before == "\u6cb3" * (cut // 3)
        assert before + stream.push(river[cut:]) + stream.flush() == "\u6cb3\u6cb3"
    stream = StreamDecoder(ours)
    stream.push(river[:3])
    stream.end_known_text()
    # The prompt stays as it was given, whatever byte comes after it.
    assert stream.push([TOKENS.index("<0xFF>")]) + stream.flush() == "\ufffd"


def test_known_text_does_not_come_again(hugging_face):
    joined, _ = hugging_face("after a text is joined")
    stream = StreamDecoder(joined)
    assert stream.push([TOKENS.index("b"), TOKENS.index("a")]) + stream.end_known_text() == "ba"
    assert stream.push([TOKENS.index("b")]) + stream.flush() == "b"
    for name in ("GPT-1", "GPT-1, joined"):
        stream = StreamDecoder(hugging_face(name)[0])
        assert stream.push([TOKENS.index("x</w>")]) + stream.end_known_text() == "x"
        assert stream.push([TOKENS.index("b")]) + stream.flush() == " b"
    stream = StreamDecoder(hugging_face("the last token, then others")[0])
    assert stream.push([TOKENS.index("x</w>")]) + stream.end_known_text() == "x"
    assert stream.push([TOKENS.index("b")]) + stream.flush() == "  b"
    whole, _ = hugging_face("a pattern over all")
    stream = StreamDecoder(whole)
    assert stream.push([TOKENS.index("b")]) + stream.end_known_text() == "b"
    assert stream.push([TOKENS.index("ab")]) + stream.flush() == "x"


def test_ids_out_of_range_are_refused(hugging_face):
    stream = StreamDecoder(hugging_face("GPT-2")[0])
    with pytest.raises(ValueError, match="token ids run from"):
        stream.push([len(TOKENS)])
    assert stream.flush() == ""
