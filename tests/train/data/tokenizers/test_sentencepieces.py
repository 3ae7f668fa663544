"""A SentencePiece model gives the ids and the text of its library, for long texts and ids that arrive one by one."""

import io

import pytest
from hypothesis import given, settings

from tests.tiers import representatives
from tests.train.data.conftest import PART, TEXTS, ids_and_groups, prose, streamed
from train.data import SentencePieceFile, StreamDecoder, make_tokenizer
from train.data.tokenizers import sentencepieces
from train.data.tokenizers.cutting import cut

MODELS = {
    "default": {},
    "lossless": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True},
    "bytes": {"byte_fallback": True},
    "spaces after words": {"treat_whitespace_as_suffix": True},
    "spaces after words, symbols": {
        "treat_whitespace_as_suffix": True,
        "user_defined_symbols": ["a b", "\u2581\u2581"],
    },
    "symbols": {"user_defined_symbols": ["a b", "self\u2581", "  "], "control_symbols": ["<t>"]},
    "no prefix": {"add_dummy_prefix": False},
    "over spaces": {"split_by_whitespace": False},
    "unigram": {"model_type": "unigram"},
    "characters": {"model_type": "char"},
}


def train_sentencepiece(path, **options):
    """The tokenizer of a model that is written to a path: ours, and the library's."""
    import sentencepiece

    out = io.BytesIO()
    lines = prose(0, 6000).splitlines()
    basics = {"vocab_size": 350, "hard_vocab_limit": False, "minloglevel": 2, "model_type": "bpe"}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **basics | options)
    path.write_bytes(out.getvalue())
    library = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    return make_tokenizer(SentencePieceFile(path=str(path)), []), library


@pytest.fixture(scope="module")
def of_model(tmp_path_factory):
    """The tokenizers of all models by name."""
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    return {name: train_sentencepiece(path, **options) for name, options in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=80)
@given(text=TEXTS)
def test_sentencepiece_in_parts(of_model, name, text):
    ours, library = of_model[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentencepieces, "MAX_PART_CHARACTERS", PART)
        ids = ours.encode(text)
    assert ids.tolist() == library.encode(text)
    assert ours.decode(ids) == library.decode(ids.tolist())


def test_sentencepiece_cuts_long_texts_of_byte_pairs_alone(of_model, monkeypatch):
    monkeypatch.setattr(sentencepieces, "MAX_PART_CHARACTERS", 100)
    ours, library = of_model["default"]
    parts = list(cut(library.normalize(prose(1, 5000)), 100, ours._is_safe))
    assert len(parts) > 45
    assert all(part.startswith("\u2581") for part in parts)
    assert ours._may_be_cut
    # The library adds up a unigram model's scores over the whole text, so that a part may round differently.
    assert not of_model["unigram"][0]._may_be_cut


def test_a_prefix_comes_once(of_model):
    ours, library = of_model["default"]
    text = "a\u2581list of \u2581 a"
    assert ours.encode(text).tolist() == library.encode(text)
    assert ours.decode(ours.encode(text)) == "a list of a"
    long = "the list of\n" * 120_000  # above the size of a part as it is
    assert ours.encode(long).tolist() == library.encode(long)


@pytest.mark.parametrize("name", representatives(MODELS, "default", "bytes", "spaces after words, symbols"))
@settings(max_examples=120)
@given(drawn=ids_and_groups(300, 3))
def test_a_stream_of_pieces_is_the_librarys_text(of_model, name, drawn):
    ours, library = of_model[name]
    ids = [i % library.get_piece_size() for i in drawn[0] if i % library.get_piece_size() != library.eos_id()]
    assert streamed(ours, ids, drawn[1]) == library.decode(ids)


def test_the_work_of_a_token_does_not_grow(of_model, monkeypatch):
    """Each token of a long text is decoded as it arrives: nothing is decoded again from the beginning."""
    ours, library = of_model["lossless"]
    asked = []
    monkeypatch.setattr(type(ours), "decode", lambda *a: asked.append(a))
    stream = StreamDecoder(ours)
    ids = [i % (ours.vocab_size - 2) + 2 for i in range(3000)]
    text = "".join([stream.push([i]) for i in ids]) + stream.flush()
    assert text == library.decode(ids)
    assert asked == []


def test_padding_ids_have_no_text(tmp_path):
    _, library = train_sentencepiece(tmp_path / "t.model")
    size = library.get_piece_size()
    ours = make_tokenizer(SentencePieceFile(path=str(tmp_path / "t.model"), vocab_size=size + 8), [])
    ids = [*ours.encode("the list"), size, *ours.encode("of")]
    assert streamed(ours, ids, [1] * len(ids)) == "the list of"
    assert ours.decode(ids) == "the list of"


def test_a_denormalizer_is_given_the_whole_text(tmp_path):
    (tmp_path / "rules.tsv").write_text("61 6C\t63\n")  # "al" is written "c"
    ours, library = train_sentencepiece(tmp_path / "t.model", denormalization_rule_tsv=str(tmp_path / "rules.tsv"))
    ids = [library.piece_to_id(piece) for piece in ("\u2581", "a", "l", "a")]
    assert library.decode(ids) == "ca"
    assert streamed(ours, ids, [1] * 4) == "ca"


def test_names_of_marks_become_marks_where_asked_for(of_model):
    ours, library = of_model["symbols"]
    assert {"<s>", "</s>", "<t>"} <= ours.marks().keys()
    mark = library.piece_to_id("<t>")
    ids = ours.encode_marked("<t>hello<t><t> you").tolist()
    assert ids == [mark, *library.encode("hello"), mark, mark, *library.encode(" you")]
    assert mark not in ours.encode("<t>hello").tolist()
    assert ours.encode_marked("").tolist() == []
