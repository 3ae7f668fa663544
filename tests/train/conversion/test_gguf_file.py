"""GGUF files, as the package gguf writes them, read as run folders: numbers by the formats' definitions, and texts."""

import io
import json
import shutil
import sys

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers

from model.errors import UserError
from model.parameters.names import flatten
from tests.train.data.conftest import prose
from train.conversion.folder import HuggingFaceFolder, make_header, write_tensors
from train.conversion.gguf_file import NAMES, WORDS, unpacked, write_folder
from train.conversion.reading import read_published
from train.data import HuggingFace, SentencePieceFile, make_tokenizer
from train.run.loading import load_run

HEADS, KEY_HEADS, WIDTH, FFN, LAYERS, CONTEXT = 4, 2, 32, 64, 2, 48
TEXTS = [prose(7, 400), "h\u00e9llo  w\u00f6rld\n\n x", " lead, 12345 it's", "\u65e5\u672c \U0001f600", ""]
SHORT = {new: old for old, new in NAMES.items()}


def pieces():
    """A SentencePiece model."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(prose(0, 2000).splitlines()), model_writer=out, vocab_size=320, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def weights_of(vocabulary):
    """The published tensors of a random model."""
    draw = np.random.default_rng(0)
    head = WIDTH // HEADS
    shapes = {"model.embed_tokens": (vocabulary, WIDTH), "model.norm": (WIDTH,), "lm_head": (vocabulary, WIDTH)}
    of_layer = {
        "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,), "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (KEY_HEADS * head, WIDTH), "self_attn.v_proj": (KEY_HEADS * head, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (FFN, WIDTH), "mlp.up_proj": (FFN, WIDTH),
        "mlp.down_proj": (WIDTH, FFN),
    }  # fmt: skip
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in of_layer.items()}
    return {f"{name}.weight": draw.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(path, weights, kind="F32", tokenizer=None, architecture="llama", fields=(), factors=None):
    """Writes a file as llama.cpp's own converter does; returns the blocks of each quantised tensor, by published name."""
    writer, blocks = gguf.GGUFWriter(path, architecture), {}
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    for name, value in fields:
        writer.add_key_value(
            name, value, gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.UINT32
        )
    if isinstance(tokenizer, sentencepiece.SentencePieceProcessor):
        ids = range(tokenizer.get_piece_size())
        writer.add_tokenizer_model("llama")
        writer.add_token_list([tokenizer.id_to_piece(i) for i in ids])
        writer.add_token_scores([tokenizer.get_score(i) for i in ids])
        kinds = ((6, tokenizer.is_byte), (3, tokenizer.is_control), (2, tokenizer.is_unknown), (1, lambda i: True))
        writer.add_token_types([next(kind for kind, holds in kinds if holds(i)) for i in ids])
    elif tokenizer is not None:
        described = json.loads(tokenizer.to_str())["model"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        names = sorted(described["vocab"], key=described["vocab"].get)
        writer.add_token_list([*names, "<|end|>"])
        writer.add_token_types([1] * len(names) + [3])
        writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
        writer.add_eos_token_id(len(names))
        writer.add_chat_template("{{ messages[0].content }}")
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, x in weights.items():
        stem = name.removesuffix(".weight")
        layer, short = "", SHORT.get(stem)
        if short is None:
            number, _, stem = stem.removeprefix("model.layers.").partition(".")
            layer, short = f"blk.{number}.", SHORT[stem]
        for part, heads in (("q_proj", HEADS), ("k_proj", KEY_HEADS)):
            if part in name:  # the neighbours of llama.cpp from the halves of the published layout
                x = x.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(x.shape)
        if kind == "F32" or x.ndim == 1:
            writer.add_tensor(f"{layer}{short}.weight", np.ascontiguousarray(x))
        elif kind == "F16":
            writer.add_tensor(f"{layer}{short}.weight", x.astype(np.float16))
        else:
            blocks[name] = gguf.quants.quantize(np.ascontiguousarray(x), gguf.GGMLQuantizationType[kind])
            writer.add_tensor(f"{layer}{short}.weight", blocks[name], raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return blocks


def by_definition(blocks, kind, shape):
    """The numbers of blocks of 32: a float16 scale, then 32 bytes (Q8_0) or 16 bytes of two numbers each (Q4_0)."""
    flat = blocks.reshape(-1, 34 if kind == "Q8_0" else 18)
    scale = flat[:, :2].copy().view(np.float16).astype(np.float32)
    if kind == "Q8_0":
        return (scale * flat[:, 2:].view(np.int8)).reshape(shape)
    low, high = (flat[:, 2:] & 15).astype(np.float32), (flat[:, 2:] >> 4).astype(np.float32)
    return (scale * (np.concatenate([low, high], axis=1) - 8)).reshape(shape)


def read_back(folder):
    opened = HuggingFaceFolder(folder)
    return {name: np.array(opened.read(stored)) for name, stored in opened.tensors.items()}


@pytest.fixture(scope="module")
def library():
    return pieces()


@pytest.fixture(scope="module")
def weights(library):
    return weights_of(library.get_piece_size())


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_numbers_are_those_of_the_formats_definition(kind, weights, library, tmp_path):
    blocks = write_gguf(tmp_path / "a.gguf", weights, kind, library)
    (tmp_path / "folder").mkdir()
    write_folder(tmp_path / "a.gguf", tmp_path / "folder")
    found = read_back(tmp_path / "folder")
    assert found.keys() == weights.keys()
    for name, x in weights.items():
        expected = x
        if name in blocks:
            expected = by_definition(blocks[name], kind, x.shape)
            for part, heads in (("q_proj", HEADS), ("k_proj", KEY_HEADS)):
                if part in name:
                    expected = np.concatenate([np.concatenate([h[0::2], h[1::2]]) for h in np.split(expected, heads)])
        elif kind == "F16" and x.ndim == 2:
            expected = x.astype(np.float16)
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_a_run_is_that_of_the_published_folder(weights, library, tmp_path):
    write_gguf(tmp_path / "a.gguf", weights, tokenizer=library)
    with unpacked(tmp_path / "a.gguf", tmp_path / "runs" / "a") as folder:
        published = tmp_path / "published"
        shutil.copytree(folder, published)
        read_published(folder, tmp_path / "runs" / "a")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]
    header = make_header("model.safetensors", [(name, "F32", x.shape) for name, x in weights.items()])
    list(write_tensors(published, header, lambda stored: weights[stored.name]))
    read_published(published, tmp_path / "runs" / "b")
    one, other = load_run(tmp_path / "runs" / "a"), load_run(tmp_path / "runs" / "b")
    assert one.experiment.model == other.experiment.model
    assert one.experiment.model.context_length == CONTEXT
    first, second = flatten(one.params), flatten(other.params)
    assert first.keys() == second.keys()
    for name, x in first.items():
        np.testing.assert_array_equal(x, second[name], err_msg=name)
    assert one.tokenizer.encode("the cat").tolist()[0] != one.tokenizer.begin_of_document == 1


def test_texts_have_the_ids_of_sentencepiece(weights, library, tmp_path):
    write_gguf(tmp_path / "a.gguf", weights, tokenizer=library)
    (tmp_path / "folder").mkdir()
    write_folder(tmp_path / "a.gguf", tmp_path / "folder")
    made = make_tokenizer(SentencePieceFile(path=str(tmp_path / "folder" / "tokenizer.model")), [])
    for text in TEXTS:
        assert made.encode(text).tolist() == library.encode(text)
        assert made.decode(made.encode(text)) == library.decode(library.encode(text))


def test_texts_have_the_ids_of_byte_level_pairs(tmp_path):
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=True))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS["llama-bpe"]), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, initial_alphabet=sorted(alphabet), show_progress=False)
    library.train_from_iterator([prose(0, 2000)], trainer)
    write_gguf(tmp_path / "a.gguf", weights_of(321), tokenizer=library)
    (tmp_path / "folder").mkdir()
    write_folder(tmp_path / "a.gguf", tmp_path / "folder")
    made = make_tokenizer(HuggingFace(path=str(tmp_path / "folder" / "tokenizer.json"), end_of_document="<|end|>"), [])
    for text in TEXTS:
        assert made.encode(text).tolist() == library.encode(text).ids
        assert made.decode(made.encode(text)) == text
    about = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
    assert about == {
        "add_bos_token": False, "eos_token": "<|end|>", "chat_template": "{{ messages[0].content }}",
    }  # fmt: skip


def test_the_scaling_of_llama_3_is_found_by_its_factors(weights, library, tmp_path):
    waves = 2 * np.pi * 10000 ** (np.arange(0, 8, 2) / 8)
    smooth = np.clip((8192 / waves - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    assert len(set(factors.tolist())) > 1
    write_gguf(tmp_path / "a.gguf", weights, tokenizer=library, factors=factors)
    with unpacked(tmp_path / "a.gguf", tmp_path / "run") as folder:
        scaling = json.loads((folder / "config.json").read_text())["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"]) == ("llama3", 32.0)
    write_gguf(tmp_path / "b.gguf", weights, tokenizer=library, factors=factors[::-1].copy())
    with (
        pytest.raises(UserError, match="by factors that are not those of LLaMA 3.1"),
        unpacked(tmp_path / "b.gguf", tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(architecture="gemma"), "a.gguf has the architecture gemma; that of llama is read; take the model's"),
        (dict(fields=[("llama.expert_count", 8)]), "has experts, which are read from safetensors alone"),
        (dict(fields=[("split.count", 2)]), "is one part of several; join them"),
        (dict(fields=[("llama.rope.scaling.type", "yarn")]), "scales its positions by yarn"),
        (dict(fields=[("llama.rope.dimension_count", 4)]), "rotates a part of each head"),
        (
            dict(fields=[("tokenizer.ggml.model", "bert")]),
            "has a tokenizer bert .gpt-2. that is not read; .* --tokenizer=tok",
        ),
    ],
)
def test_what_is_not_read_is_named(given, message, weights, tmp_path):
    write_gguf(tmp_path / "a.gguf", weights, **given)
    with pytest.raises(UserError, match=message), unpacked(tmp_path / "a.gguf", tmp_path / "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_another_file_and_a_missing_package_are_named(weights, library, tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"no such thing, but long enough to have a header")
    with pytest.raises(UserError, match="is no GGUF file, or a damaged one"), unpacked(path, tmp_path / "run"):
        pass
    with (
        pytest.raises(UserError, match=r"cannot read .*none.gguf: No such file"),
        unpacked(tmp_path / "none.gguf", tmp_path / "run"),
    ):
        pass
    write_gguf(path, weights, tokenizer=library)
    with unpacked(path, tmp_path / "run") as folder:
        own = (folder / "tokenizer.model").read_bytes()
    (tmp_path / "other.model").write_bytes(own + b"")
    with unpacked(path, tmp_path / "run", tmp_path / "other.model") as folder:
        assert (folder / "tokenizer.model").read_bytes() == own
    monkeypatch.setitem(sys.modules, "gguf", None)
    with (
        pytest.raises(UserError, match=r"read with the package gguf: pip install 'cairn-lm\[gguf\]'"),
        unpacked(path, tmp_path / "run"),
    ):
        pass
