"""Text in, text out: whole characters, exact stop strings, the same text whether it is streamed or not."""

import itertools

import jax
import pytest

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.inference import cpu
from model.inference.sampling import Sampling
from model.layout import ONE_DEVICE, Layout
from model.parameters.maker import Normal
from model.transformer import init
from train.data.config import Bytes, Characters, HuggingFace
from train.data.tokenizers.interface import BytesTokenizer, CharactersTokenizer, make_tokenizer
from train.data.tokenizers.streaming import AtEndDecoder
from train.generation.texts import TextStream, check_prompts, generate_texts, prompt_ids

BYTES = BytesTokenizer(Bytes())


def stream(text, stop_strings=(), cut=False, tokenizer=BYTES):
    """The pieces that a stream shows, and whether a stop string ended it."""
    texts = TextStream(tokenizer, tokenizer.encode("a prompt ").tolist(), stop_strings)
    ids = list(text) if isinstance(text, bytes) else tokenizer.encode(text).tolist()
    pieces = []
    for token in ids:
        pieces.append(texts.push(token))
        if texts.stopped:
            return pieces, True
    pieces.append(texts.finish(truncated=cut))
    return pieces, texts.stopped


def test_no_character_comes_in_halves():
    text = "aé漢🙂\nb"
    pieces, _ = stream(text)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert pieces[:3] == ["a", "", "é"]


def test_an_id_of_the_model_alone_is_shown_as_its_number():
    stream = TextStream(BytesTokenizer(Bytes()), [], ["<258>"])
    assert "".join(map(stream.push, (*"é<".encode(), 260, 97, 258))) == "é<<260>a"
    assert stream.stopped


class LateBytes(BytesTokenizer):
    """Bytes whose decoder gives all text at the end."""

    def incremental_decoder(self):
        return AtEndDecoder(lambda ids: bytes(ids).decode("utf-8", errors="replace"))


@pytest.mark.parametrize("tokenizer", [BYTES, LateBytes(Bytes())], ids=["as it comes", "at the end"])
def test_such_an_id_stands_where_it_was_drawn(tokenizer):
    for ids, text in (((*b"one ", 260, *b"two"), "one <260>two"), ((0xC3, 260, 0xA9), "\ufffd<260>\ufffd")):
        texts = TextStream(tokenizer, [])
        assert "".join([*map(texts.push, ids), texts.finish(truncated=True)]) == text


def test_an_unfinished_character_is_shown_and_told_where_a_limit_cut_it():
    half = "ab漢".encode()[:-1]
    for cut in (True, False):
        assert "".join(stream(half, cut=cut)[0]) == "ab\ufffd"
        texts = TextStream(BYTES, [256])
        assert "".join(texts.push(byte) for byte in half) + texts.finish(truncated=cut) == "ab\ufffd"
        assert texts.ends_mid_character == cut
    texts = TextStream(BYTES, [256], ["b"])
    assert "".join(texts.push(byte) for byte in half) + texts.finish(truncated=True) == "a"
    assert not texts.ends_mid_character


@pytest.fixture(scope="module")
def fallback(tmp_path_factory):
    """A tokenizer as LLaMA 2's: letters and a mark of a space, all else in bytes."""
    import tokenizers
    from tokenizers import decoders, normalizers

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *bytes_, "\u2581", *"abcxyz"])}
    model = tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    path = tmp_path_factory.mktemp("fallback") / "tokenizer.json"
    tokenizer.save(str(path))
    return make_tokenizer(HuggingFace(path=str(path), end_of_document="</s>", begin_of_document="<s>"), [])


@pytest.mark.parametrize("text", ["河边 a 石", "é", "🙂🙃 x", "да нет", "a b"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_text_in_bytes_goes_on_after_its_prompt(fallback, text, at):
    """The prompt's ids and the model's, decoded together, are one text, though a run of bytes goes on over the border."""
    ids = prompt_ids(fallback, text)
    cut = len(prompt_ids(fallback, text[:at])) if at else 1
    texts = TextStream(fallback, ids[:cut])
    assert text[:at] + "".join(texts.push(i) for i in ids[cut:]) + texts.finish(truncated=True) == text
    assert not texts.ends_mid_character


def test_a_character_may_begin_in_the_prompt(fallback):
    ids = prompt_ids(fallback, "a石b")
    texts = TextStream(fallback, ids[:-2])
    assert [texts.push(i) for i in ids[-2:]] == ["", "石b"]
    cut = TextStream(fallback, ids[:-3])
    assert cut.push(ids[-3]) + cut.finish(truncated=True) == "\ufffd\ufffd"
    assert cut.ends_mid_character


def first_completed(text, stop_strings):
    """The definition: the text before the stop string that is completed first, the longest of those."""
    for stop in range(1, len(text) + 1):
        starts = [stop - len(s) for s in stop_strings if text[:stop].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


def test_stop_strings_end_the_text_exactly():
    stop_sets = [("b",), ("ab",), ("aa",), ("aab", "b"), ("bab", "ab"), ("abc", "b"), ("ca", "cab")]
    for letters in itertools.product("abc", repeat=5):
        for stop_strings in stop_sets:
            text = "".join(letters)
            pieces, stopped = stream(text, stop_strings)
            assert ("".join(pieces), stopped) == first_completed(text, stop_strings), (text, stop_strings)


def test_a_stop_string_across_tokens_of_several_characters():
    class Pairs(CharactersTokenizer):
        """Two characters an id."""

        def encode(self, text):
            return super().encode(text)

        def decode(self, ids):
            return "".join(2 * c for c in super().decode(ids))

    tokenizer = Pairs(Characters(), "a prompt bc")
    assert stream("abc", ("abb",), tokenizer=tokenizer) == (["a", ""], True)
    assert stream("abc", ("bbcc",), tokenizer=tokenizer) == (["aa", "", ""], True)
    assert "".join(stream("abc", ("bcb",), tokenizer=tokenizer)[0]) == "aabbcc"


def test_what_may_begin_a_stop_string_waits_and_comes_after_all():
    pieces, stopped = stream("xSTxSTO", ("STOP",))
    assert not stopped
    assert pieces == ["x", "", "", "STx", "", "", "", "STO"]


def test_prompts_begin_documents():
    assert prompt_ids(BYTES, "ab") == [256, 97, 98]
    assert prompt_ids(BYTES, "") == [256]
    assert prompt_ids(CharactersTokenizer(Characters(), "ab"), "ba") == [1, 0]
    with pytest.raises(UserError, match="the prompt is empty"):
        prompt_ids(CharactersTokenizer(Characters(), "ab"), "")


# ------------------------------------------------------------------------------------------------------ with a model

CONFIG = ModelConfig(
    vocab_size=257,
    context_length=24,
    num_layers=1,
    width=16,
    mixer=GroupedQuery(num_heads=2),
    ffn=MLP(width=16),
    initialization=Normal(std=0.5),
)


@pytest.fixture(scope="module")
def write():
    params = jax.jit(init, static_argnums=0)(CONFIG, jax.random.key(0))

    def write(prompts, sampling=Sampling(max_tokens=9), **options):
        return generate_texts(CONFIG, params, BYTES, prompts, sampling, **options)

    return write


def test_what_is_shown_is_the_text(write):
    shown = ["", "", ""]

    def on_text(row, text):
        shown[row] += text

    results = write(["one", "two", "one"], on_text=on_text)
    assert shown == [result.text for result in results]
    assert [result.tokens for result in results] == [9, 9, 9]
    assert results[0].text != results[2].text


class InPairs(Layout):
    """A layout that reports a two-way split of a batch, and changes nothing."""

    def ways(self, axis):
        return 2


def test_batches_change_nothing(write):
    prompts = ["one", "two", "one", "three", "one"]
    whole = write(prompts)
    for size in (1, 2, 4):
        assert write(prompts, batch_size=size) == whole
    assert write(prompts, batch_size=3, layout=InPairs()) == whole


def test_parameters_are_prepared_once_for_all_batches(write, monkeypatch):
    copies = []
    plain = cpu.decoding_params
    monkeypatch.setattr(cpu, "decoding_params", lambda params, layout: copies.append(layout) or plain(params, layout))
    write(["a", "b", "c", "d", "e"], batch_size=2)
    assert copies == [ONE_DEVICE]
    assert write([], batch_size=2) == []
    assert copies == [ONE_DEVICE]


def test_an_interruption_loses_nothing_that_was_drawn(write):
    """After three tokens of each text of the second batch."""
    whole = write(["a", "b", "c"], batch_size=2)
    results, shown, tokens = [], {0: "", 1: "", 2: ""}, {0: 0, 1: 0, 2: 0}

    def interrupt(row, text):
        shown[row] += text
        tokens[row] += 1
        if tokens[2] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(["a", "b", "c"], batch_size=2, on_text=interrupt, results=results)
    assert results[:2] == whole[:2]
    assert (results[2].tokens, results[2].ended_by) == (3, "interruption")
    assert results[2].text == whole[2].text[: len(results[2].text)] != ""


def test_what_ended_a_text_is_told(write):
    (free,) = write(["abc"], Sampling(temperature=0, max_tokens=100))
    assert (free.ended_by, free.tokens) == ("context", 24 - 4 + 1)
    assert write(["abc"], Sampling(temperature=0, max_tokens=3))[0].ended_by == "max_tokens"
    (stopped,) = write(["abc"], Sampling(temperature=0, max_tokens=100), stop_strings=[free.text[2:4]])
    assert stopped.ended_by == "stop_string"
    assert stopped.text == free.text[: free.text.index(free.text[2:4])]


def test_bad_prompts_and_stops_are_refused(write):
    with pytest.raises(UserError, match=r"prompt 2 has 31 tokens .* context of 24; shorten it by 7 tokens"):
        write(["a", "x" * 30])
    with pytest.raises(UserError, match="stop string is empty"):
        write(["a"], stop_strings=["x", ""])
    assert write([]) == []


def test_prompts_that_are_no_text_or_too_long_are_named_by_their_place(tiny_experiment):
    model = tiny_experiment().model
    for prompt, message in (
        ("a\ud800", "a.txt, line 2 is not UTF-8 at character 1"),
        ("x" * 40, "a.txt, line 2 has 41 tokens"),
    ):
        with pytest.raises(UserError, match=message):
            check_prompts(model, BYTES, ["a", prompt], ["a.txt, line 1", "a.txt, line 2"])
        with pytest.raises(UserError, match="prompt 2 "):
            check_prompts(model, BYTES, ["a", prompt])
    characters = CharactersTokenizer(Characters(), "ab")
    with pytest.raises(UserError, match="^prompt 2: character 'c' .* is not among the 2"):
        check_prompts(model, characters, ["a", "c"])
    assert check_prompts(model, BYTES, [" ", "\0"]) == [[256, 32], [256, 0]]
