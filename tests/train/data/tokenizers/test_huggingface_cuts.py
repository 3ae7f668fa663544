"""A long text encoded in parts has the library's ids for the whole text, whatever characters are at the cuts."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from tests.tiers import representatives
from tests.train.data.conftest import PART, TEXTS, prose
from train.data import HuggingFace, make_tokenizer
from train.data.tokenizers import huggingface
from train.data.tokenizers.huggingface_cuts import safe_cuts

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
    """A model and its trainer, which is None for the model like LLaMA 2's, whose merges are written out."""
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


@pytest.mark.parametrize("name", representatives([*CUT, *WHOLE], *[*CUT, *WHOLE][::3]))
@settings(max_examples=80)
@given(text=TEXTS)
def test_hugging_face_in_parts(hugging_face, name, text):
    ours, library = hugging_face(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface, "MAX_PART_CHARACTERS", PART)
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
@settings(max_examples=80)
@given(text=TEXTS)
def test_added_tokens_at_a_cut(hugging_face, name, added, text):
    ours, library = hugging_face(name, ADDED[added])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface, "MAX_PART_CHARACTERS", PART)
        assert ours.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids
    # A prefix is also put before the text after an added token, and only the prefix is left out of later parts.
    assert (ours._cuts is not None) == (added in ("plain", "takes spaces before") and name != "LLaMA 2")


def test_the_prefix_of_a_long_text_comes_once(hugging_face):
    ours, library = hugging_face("LLaMA 2")
    text = "the list of all " * 70_000  # above the size of a part as it is
    assert ours.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids


def test_where_a_text_may_be_cut():
    about = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    assert safe_cuts(about) is None  # no letter is a token
    cuts = safe_cuts(about | {"pre_tokenizer": {"type": "Whitespace"}})
    safe = [
        before + after
        for before in "a.\u6cb3\n \u2581\u0120\u0301\u0d4e\u037a"
        for after in " a\n"
        if cuts.is_safe(before, after)
    ]
    assert safe == ["a ", ". ", "\u6cb3 "]
