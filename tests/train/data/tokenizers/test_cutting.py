"""A long text encoded in parts has the library's ids for the whole of it, whatever stands at the cuts."""

import io
import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from tests.train.data.conftest import prose
from train.data import HuggingFace, SentencePieceFile, make_tokenizer
from train.data.tokenizers import huggingface, sentencepieces
from train.data.tokenizers.cutting import cut
from train.data.tokenizers.huggingface_cuts import cuts_of

PART = 8
# What prefixes, normalizers, words and merges look at beyond a place in a text.
BITS = [
    *("a", "the ", " of", "list", "  ", " ", "\u2581", "\n", "\n\n", "\t", "\x00", "\u00e9", "e", "\u0301", "\u2460"),
    *("\uff76", "\uff9e", "\u6cb3", "\u8fb9", "<s>", "</s>", "<t>", " <t>", "\u3000", "\u200d", "\U0001f642", "12"),
    *(".", ",", "'s", "\u0d4e", "\u0120", "\u00ad", "\ufeff", "a b", "<0x41>", "self\u2581", "\ufffd"),
]
TEXTS = st.lists(st.sampled_from(BITS), max_size=40).map("".join)


@given(text=st.text("ab ", max_size=60), size=st.integers(1, 9))
def test_parts_are_cut_at_safe_places_and_only_there(text, size):
    parts = list(cut(text, size, lambda before, after: before != " " and after == " "))
    assert "".join(parts) == text
    assert all(part.startswith(" ") for part in parts[1:])
    assert all(len(part) <= size or " " not in part[1:].lstrip(" ") for part in parts[:-1])


# ------------------------------------------------------------------------------------------------------ SentencePiece

SENTENCEPIECE = {
    "default": {},
    "lossless": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True},
    "spaces after words": {"treat_whitespace_as_suffix": True},
    "symbols": {"user_defined_symbols": ["a b", "self\u2581", "  "], "control_symbols": ["<t>"]},
    "no prefix": {"add_dummy_prefix": False},
    "over spaces": {"split_by_whitespace": False},
    "unigram": {"model_type": "unigram"},
    "characters": {"model_type": "char"},
}


@pytest.fixture(scope="module")
def sentencepiece_models(tmp_path_factory):
    import sentencepiece

    made = {}
    for name, options in SENTENCEPIECE.items():
        out, path = io.BytesIO(), tmp_path_factory.mktemp("pieces") / "tokenizer.model"
        basics = {"model_type": "bpe", "vocab_size": 350, "hard_vocab_limit": False, "minloglevel": 2}
        lines = iter(prose(0, 6000).splitlines())
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=out, **basics | options)
        path.write_bytes(out.getvalue())
        library = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
        made[name] = make_tokenizer(SentencePieceFile(path=str(path)), []), library
    return made


@pytest.mark.parametrize("name", SENTENCEPIECE)
@settings(max_examples=80, deadline=None)
@given(text=TEXTS)
def test_sentencepiece_in_parts(sentencepiece_models, name, text):
    ours, library = sentencepiece_models[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentencepieces, "PART", PART)
        ids = ours.encode(text)
    assert ids.tolist() == library.encode(text)
    assert ours.decode(ids) == library.decode(ids.tolist())


def test_sentencepiece_cuts_long_texts_of_byte_pairs_alone(sentencepiece_models, monkeypatch):
    monkeypatch.setattr(sentencepieces, "PART", 100)
    ours, library = sentencepiece_models["default"]
    parts = list(cut(library.normalize(prose(1, 5000)), 100, ours._is_safe))
    assert len(parts) > 45
    assert all(part.startswith("\u2581") for part in parts)
    assert ours._may_be_cut
    # The library adds up a unigram model's scores over all of a text, so that a part may round otherwise.
    assert not sentencepiece_models["unigram"][0]._may_be_cut


def test_a_prefix_comes_once(sentencepiece_models):
    ours, library = sentencepiece_models["default"]
    text = "a\u2581list of \u2581 a"
    assert ours.encode(text).tolist() == library.encode(text)
    assert ours.decode(ours.encode(text)) == "a list of a"
    long = "the list of\n" * 120_000  # above the size of a part as it is
    assert ours.encode(long).tolist() == library.encode(long)


# ------------------------------------------------------------------------------------------------------- Hugging Face

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTE_LEVEL, BYTES_ALONE = pre_tokenizers.ByteLevel, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
LLAMA2 = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
SPLIT, SEQUENCE = pre_tokenizers.Split, pre_tokenizers.Sequence
Pipeline = tuple[object, object, str]
CUT: dict[str, Pipeline] = {
    "LLaMA 2": (LLAMA2, None, "merges"),
    "Gemma": (normalizers.Replace(" ", "\u2581"), SPLIT(" ", "merged_with_previous"), "merges"),
    "Metaspace": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), "merges"),
    "GPT-2": (None, BYTE_LEVEL(add_prefix_space=False), "bpe"),
    "GPT-2 with a prefix": (None, BYTE_LEVEL(add_prefix_space=True), "bpe"),
    "GPT-NeoX": (normalizers.NFC(), BYTE_LEVEL(add_prefix_space=True), "bpe"),
    "LLaMA 3": (None, SEQUENCE([SPLIT(Regex(LLAMA3), "isolated"), BYTES_ALONE]), "bpe"),
    "tiktoken": (None, SEQUENCE([SPLIT(Regex(GPT2), "removed", invert=True), BYTES_ALONE]), "bpe"),
    "digits": (None, SEQUENCE([pre_tokenizers.Digits(True), BYTE_LEVEL(add_prefix_space=True)]), "bpe"),
    "XLM-R": (normalizers.NFKC(), pre_tokenizers.Metaspace(), "unigram"),
    "T5": (
        normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
        SEQUENCE([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        "unigram",
    ),
    "BERT": (normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), "wordpiece"),
}
WHOLE: dict[str, Pipeline] = {
    "strip": (normalizers.Strip(), BYTE_LEVEL(add_prefix_space=False), "bpe"),
    "spaces gone": (normalizers.Replace(" ", ""), None, "merges"),
    "a pattern over spaces": (normalizers.Replace("a b", "x"), BYTE_LEVEL(add_prefix_space=False), "bpe"),
    "pieces over spaces": (None, None, "bpe"),
    "spaces hidden": (LLAMA2, pre_tokenizers.WhitespaceSplit(), "wordpiece"),
    "prefixed bytes": (normalizers.Replace(" ", "\u2581"), BYTE_LEVEL(add_prefix_space=True), "bpe"),
    "lengths": (None, pre_tokenizers.FixedLength(5), "bpe"),
    "scripts": (None, pre_tokenizers.UnicodeScripts(), "wordpiece"),
    "a pattern unknown": (None, SPLIT(Regex(".{3}"), "isolated"), "bpe"),
    "unigram over spaces": (normalizers.Replace(" ", "\u2581"), None, "unigram"),
}


def model_of(kind):
    """A model and what trains it, None for the one of LLaMA 2's kind, whose merges are written out."""
    if kind == "merges":
        merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "\u2581"), ("l", "i"), ("\u2581", "a")]
        tokens = ["<unk>", "<s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", *"abcdefghilmnorstu12."]
        vocabulary = {token: i for i, token in enumerate([*tokens, *("".join(pair) for pair in merges)])}
        return models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True), None
    model, trainer = {
        "bpe": (models.BPE(unk_token="<unk>", fuse_unk=True), tokenizers.trainers.BpeTrainer),
        "unigram": (models.Unigram(), tokenizers.trainers.UnigramTrainer),
        "wordpiece": (models.WordPiece(unk_token="<unk>"), tokenizers.trainers.WordPieceTrainer),
    }[kind]
    unknown = {"unk_token": "<unk>"} if kind == "unigram" else {}
    return model, trainer(vocab_size=300, special_tokens=["<unk>", "<s>"], show_progress=False, **unknown)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A function that makes the tokenizer of a pipeline: ours, and the library's."""
    folder, made = tmp_path_factory.mktemp("pipelines"), {}

    def make(name, added=()):
        if (name, added) not in made:
            normalizer, splitter, kind = (CUT | WHOLE)[name]
            model, trainer = model_of(kind)
            tokenizer = tokenizers.Tokenizer(model)
            if normalizer is not None:
                tokenizer.normalizer = normalizer
            if splitter is not None:
                tokenizer.pre_tokenizer = splitter
            if trainer is not None:
                tokenizer.train_from_iterator([prose(0, 6000), "a  b\n\nc e\u0301 12 it's"], trainer)
            tokenizer.add_tokens(list(added))
            path = folder / f"{len(made)}.json"
            tokenizer.save(str(path))
            library = tokenizers.Tokenizer.from_file(str(path))
            library.encode_special_tokens = True
            made[name, added] = make_tokenizer(HuggingFace(path=str(path)), []), library
        return made[name, added]

    return make


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
@settings(max_examples=80, deadline=None)
@given(text=TEXTS)
def test_hugging_face_in_parts(hugging_face, name, text):
    ours, library = hugging_face(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface, "PART", PART)
        assert ours.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids


def test_which_pipelines_are_cut(hugging_face):
    assert [name for name in CUT if hugging_face(name)[0]._cuts is None] == []
    assert [name for name in WHOLE if hugging_face(name)[0]._cuts is not None] == []


ADDED = {
    "plain": (AddedToken("<t>", normalized=False), AddedToken("  ", normalized=False)),
    "takes spaces before": (AddedToken("<t>", lstrip=True, normalized=True),),
    "takes spaces after": (AddedToken("<t>", rstrip=True),),
    "whole words": (AddedToken("list", single_word=True),),
    "over a space": (AddedToken("of a", normalized=False),),
}


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("name", ["GPT-2 with a prefix", "LLaMA 2", "LLaMA 3"])
@settings(max_examples=80, deadline=None)
@given(text=TEXTS)
def test_added_tokens_at_a_cut(hugging_face, name, added, text):
    ours, library = hugging_face(name, ADDED[added])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface, "PART", PART)
        assert ours.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids
    # A prefix is put before what follows an added token too, and the prefix alone is left out of later parts.
    assert (ours._cuts is not None) == (added in ("plain", "takes spaces before") and name != "LLaMA 2")


def test_the_prefix_of_a_long_text_comes_once(hugging_face):
    ours, library = hugging_face("LLaMA 2")
    text = "the list of all " * 70_000  # above the size of a part as it is
    assert ours.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids


def test_where_a_text_may_be_cut():
    about = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    assert cuts_of(about) is None  # no letter is a token
    cuts = cuts_of(about | {"pre_tokenizer": {"type": "Whitespace"}})
    safe = [
        before + after
        for before in "a.\u6cb3\n \u2581\u0120\u0301\u0d4e\u037a"
        for after in " a\n"
        if cuts.is_safe(before, after)
    ]
    assert safe == ["a ", ". ", "\u6cb3 "]
