"""GGUF: a file of llama.cpp with the numbers, the options and the tokenizer of a model, as a Hugging Face folder.

The package `gguf` reads the file and turns its formats (Q8_0, Q4_0, Q4_K and the others) into numbers. The folder has
them exactly: in float32, or in the file's own 16 bits. llama.cpp rotates neighbouring numbers of a query or key, and
the published layout pairs number i with number i + H / 2, so the rows of these projections are put back in order.
"""

import contextlib
import importlib
import math
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from model.errors import UserError
from train.conversion.folder import StoredTensor, make_header, write_tensors
from train.files.files import cannot_read, write_json

MISSING = (
    "GGUF files are read with the package gguf: pip install 'cairn-lm[gguf]', or, in a checkout, "
    "pip install -e '.[gguf]'"
)
WEIGHTS = "model.safetensors"
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
FREQUENCIES = "rope_freqs.weight"
# How texts are cut into words before byte-pair encoding, by the file's name for it.
WORDS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens, as in SentencePiece


@contextlib.contextmanager
def unpacked(source: pathlib.Path, run: pathlib.Path, tokenizer: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """A folder with the model of a GGUF file, beside the run that is to be written, until the context ends.

    See `write_folder` for `source`, `tokenizer` and errors.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{run.name}-", dir=run.parent) as name:
        write_folder(source, pathlib.Path(name), tokenizer)
        yield pathlib.Path(name)


def write_folder(source: pathlib.Path, folder: pathlib.Path, tokenizer: pathlib.Path | None = None) -> None:
    """Writes the model of a GGUF file as a Hugging Face folder: config.json, model.safetensors, and its tokenizer.

    Args:
      source: the file.
      folder: an empty folder.
      tokenizer: a tokenizer.json or tokenizer.model in place of the file's own; None for that.

    Raises:
      UserError: without the package gguf, for a file that is none, for another architecture than llama, and for a
        format of numbers, a scaling of positions or a tokenizer that is not read.
    """
    file = _File(source)
    names = {tensor.name: file.published_name(tensor.name) for tensor in file.tensors.values()}
    write_json(folder / "config.json", file.config())
    header = make_header(
        WEIGHTS,
        [
            (names[name], file.dtype_of(name), tuple(map(int, reversed(tensor.shape))))
            for name, tensor in file.tensors.items()
        ],
    )
    sources = {new: old for old, new in names.items()}
    if tokenizer is None:
        file.write_tokenizer(folder)
    else:
        name = "tokenizer.json" if tokenizer.suffix == ".json" else "tokenizer.model"
        try:
            shutil.copyfile(tokenizer, folder / name)
        except OSError as error:
            raise cannot_read(tokenizer, error) from error
    write_json(folder / "tokenizer_config.json", file.tokenizer_config())
    for _ in write_tensors(folder, header, lambda stored: file.numbers(sources[stored.name], stored)):
        pass


class _File:
    """An open file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        try:
            self._library: Any = importlib.import_module("gguf")
        except ImportError:
            raise UserError(MISSING) from None
        try:
            reader = self._library.GGUFReader(path)
        except OSError as error:
            raise cannot_read(path, error) from error
        except (ValueError, IndexError, KeyError) as error:
            raise UserError(f"{path} is no GGUF file, or a damaged one: {error}; get it again") from None
        self._fields: Mapping[str, Any] = reader.fields
        architecture = self.value("general.architecture")
        if architecture != "llama":
            raise self._refused(f"has the architecture {architecture}; that of llama is read")
        if self.value("llama.expert_count", 0):
            raise self._refused("has experts, which are read from safetensors alone")
        if self.value("split.count", 1) > 1:
            raise self._refused("is one part of several; join them with llama-gguf-split --merge")
        self.tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name != FREQUENCIES}
        self._factors = next((np.array(t.data) for t in reader.tensors if t.name == FREQUENCIES), None)

    def value(self, key: str, default: Any = None) -> Any:
        """A value of the file's header."""
        found = self._fields.get(key)
        return default if found is None else found.contents()

    def _needed(self, key: str) -> Any:
        if (found := self.value(key)) is None:
            raise self._refused(f"lacks {key}")
        return found

    def _refused(self, problem: str) -> UserError:
        return UserError(f"{self.path} {problem}; take the model's repository with safetensors files")

    # ------------------------------------------------------------------------------------------------------- options

    def config(self) -> dict[str, Any]:
        """The config.json."""
        heads, width = self._needed("llama.attention.head_count"), self._needed("llama.embedding_length")
        head_dim = self.value("llama.attention.key_length", width // heads)
        theta = float(self.value("llama.rope.freq_base", 10_000.0))
        if self.value("llama.rope.dimension_count", head_dim) != head_dim:
            raise self._refused("rotates a part of each head")
        values = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": self._needed("llama.feed_forward_length"),
            "num_hidden_layers": self._needed("llama.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.value("llama.attention.head_count_kv", heads),
            "head_dim": head_dim,
            "max_position_embeddings": self._needed("llama.context_length"),
            "rms_norm_eps": float(f"{self._needed('llama.attention.layer_norm_rms_epsilon'):.6g}"),
            "rope_theta": theta,
            "vocab_size": int(self.tensors["token_embd.weight"].shape[1]),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "attention_bias": "blk.0.attn_q.bias" in self.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in self.tensors,
            "torch_dtype": "float32",
        }
        for name in ("bos", "eos"):
            if (found := self.value(f"tokenizer.ggml.{name}_token_id")) is not None:
                values[f"{name}_token_id"] = found
        if (scaling := self._scaling(theta, head_dim)) is not None:
            values["rope_scaling"] = scaling
        return values

    def _scaling(self, theta: float, head_dim: int) -> dict[str, Any] | None:
        kind = self.value("llama.rope.scaling.type", "none")
        if self._factors is not None:
            return self._llama3(theta, head_dim)
        if kind == "linear":
            return {"rope_type": "linear", "factor": float(self._needed("llama.rope.scaling.factor"))}
        if kind != "none":
            raise self._refused(f"scales its positions by {kind}")
        return None

    def _llama3(self, theta: float, head_dim: int) -> dict[str, Any]:
        """LLaMA 3.1's scaling, of which the file holds the factor of each frequency (rope_freqs.weight)."""
        assert self._factors is not None
        low, high, original = 1.0, 4.0, 8192
        waves = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
        smooth = np.clip((original / waves - low) / (high - low), 0, 1)
        last = 1 / float(self._factors[-1]) - smooth[-1]  # (1 - smooth) / factor
        factor = (1 - smooth[-1]) / last if last > 0 else math.inf
        if not np.allclose(self._factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4):
            raise self._refused("scales its positions by factors that are not those of LLaMA 3.1")
        return {
            "rope_type": "llama3",
            "factor": round(factor, 3),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }

    # ------------------------------------------------------------------------------------------------------- numbers

    def published_name(self, name: str) -> str:
        """The name of a tensor in the published files."""
        found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        if found is None or found[2] not in NAMES:
            raise self._refused(f"has a tensor {name}, which llama has not")
        layer = "" if found[1] is None else f"model.layers.{found[1]}."
        return f"{layer}{NAMES[found[2]]}.{found[3]}"

    def dtype_of(self, name: str) -> str:
        """The format in which the folder holds a tensor: 16 bits where the file does."""
        return {"F16": "F16", "BF16": "BF16"}.get(self.tensors[name].tensor_type.name, "F32")

    def numbers(self, name: str, stored: StoredTensor) -> np.ndarray:
        """A tensor in the published order of its rows."""
        tensor = self.tensors[name]
        try:
            x = self._library.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise self._refused(
                f"holds {name} as {tensor.tensor_type.name}, which the package gguf cannot read"
            ) from None
        x = x.reshape(stored.shape)
        if (found := re.search(r"\.attn_([qk])\.", name)) is not None:
            heads = self._needed("llama.attention.head_count")
            heads = heads if found[1] == "q" else self.value("llama.attention.head_count_kv", heads)
            x = x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
        return np.asarray(x.astype({"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}[stored.dtype]))

    # ----------------------------------------------------------------------------------------------------- tokenizer

    def tokenizer_config(self) -> dict[str, Any]:
        """The tokenizer_config.json: its marks by name, and its chat template."""
        tokens = self.value("tokenizer.ggml.tokens", [])
        kind = self.value("tokenizer.ggml.model")
        values: dict[str, Any] = {"add_bos_token": bool(self.value("tokenizer.ggml.add_bos_token", kind == "llama"))}
        for name in ("bos", "eos"):
            found = self.value(f"tokenizer.ggml.{name}_token_id")
            if found is not None and found < len(tokens):
                values[f"{name}_token"] = tokens[found]
        if (template := self.value("tokenizer.chat_template")) is not None:
            values["chat_template"] = template
        return values

    def write_tokenizer(self, folder: pathlib.Path) -> None:
        """Writes the file's tokenizer: of SentencePiece, or byte-level pairs."""
        kind, words = self.value("tokenizer.ggml.model"), self.value("tokenizer.ggml.pre", "gpt-2")
        if kind == "llama":
            (folder / "tokenizer.model").write_bytes(self._sentencepiece())
        elif kind == "gpt2" and words in WORDS:
            write_json(folder / "tokenizer.json", self._byte_pairs(WORDS[words], ignore_merges=words == "llama-bpe"))
        else:
            raise UserError(
                f"{self.path} has a tokenizer {kind} ({words}) that is not read; give the model's own file: "
                "--tokenizer=tokenizer.json"
            )

    def _sentencepiece(self) -> bytes:
        model = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
        tokens, scores, kinds = (self._needed(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type"))
        for token, score, kind in zip(tokens, scores, kinds, strict=True):
            model.pieces.add(piece=token, score=score, type=kind)
        trainer, normalizer = model.trainer_spec, model.normalizer_spec
        trainer.model_type, trainer.vocab_size, trainer.byte_fallback = trainer.BPE, len(tokens), 6 in kinds
        for name, default in (("unk", 0), ("bos", 1), ("eos", 2), ("pad", -1)):
            long = "unknown" if name == "unk" else "padding" if name == "pad" else name
            number = self.value(f"tokenizer.ggml.{long}_token_id", default)
            setattr(trainer, f"{name}_id", number)
            if 0 <= number < len(tokens):
                setattr(trainer, f"{name}_piece", tokens[number])
        normalizer.name, normalizer.precompiled_charsmap = "identity", b""
        normalizer.add_dummy_prefix = bool(self.value("tokenizer.ggml.add_space_prefix", True))
        normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces = False, True
        return bytes(model.SerializeToString())

    def _byte_pairs(self, words: str, *, ignore_merges: bool) -> dict[str, Any]:
        tokens, merges = self._needed("tokenizer.ggml.tokens"), self._needed("tokenizer.ggml.merges")
        kinds = self.value("tokenizer.ggml.token_type", [1] * len(tokens))
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
        return {
            "version": "1.0",
            "added_tokens": [
                {"id": i, "content": token, "special": kind == CONTROL, **plain}
                for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
                if kind in (CONTROL, USER_DEFINED)
            ],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "decoder": level,
            "model": {
                "type": "BPE",
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": merges,
                "ignore_merges": ignore_merges,
            },
        }
