"""Small models of published families with random weights, made and run by `transformers`."""

import copy
import json
import pathlib
import zlib

import numpy as np

from tests.benchmarks.command import require_torch
from tests.parity import ours
from tests.parity.cases import CASES
from tests.parity.shapes import CLASSES, ENCODERS, PROMPTS
from train.conversion.language_model import LanguageModelFolder

require_torch("parity")
import torch  # noqa: E402
import transformers  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

BATCH, LENGTH, HALF, NEW_TOKENS = 2, 20, 10, 64


def make(family, shape, fields=None):
    """Returns the model of a case in float32, with weights that bfloat16 stores exactly.

    `fields` are the values of its config where the case itself has keys that `transformers` does not know.
    """
    # A padding token's row of the embedding would have no gradient.
    fields = copy.deepcopy(fields or CASES[family][shape])  # a config changes dicts, which shapes share
    text, padding = fields.get("text_config"), fields.get("pad_token_id")
    fields |= {"pad_token_id": padding} if text is None else {"text_config": text | {"pad_token_id": None}}
    fields["model_type"] = CLASSES.get(family, fields["model_type"])
    config = transformers.AutoConfig.for_model(**fields)
    # Falcon's eager attention adds its biases twice in transformers 5.23.
    plain = {"attn_implementation": "sdpa" if family == "falcon" else "eager", "experts_implementation": "eager"}
    kind = transformers.AutoModelForCausalLM if text is None else transformers.AutoModelForImageTextToText
    if family in ENCODERS:
        kind = transformers.AutoModelForMaskedLM
    elif config.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
    model = kind.from_config(config, dtype=torch.float32, **plain)
    if fields["model_type"] == "gemma4":
        model.config.text_config.pad_token_id = 0  # the whole model puts it in the place of images
    if fields.get("tie_word_embeddings") is False and fields["model_type"] == "t5":
        # transformers 5 ties what it makes, and leaves apart what it reads; see its configuration_t5.py.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    _train_buffers(model)
    rng = np.random.default_rng(zlib.crc32(f"{family} {shape}".encode()))
    tensors = dict(model.named_parameters()) | _moved(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            x = rng.standard_normal(tuple(tensor.shape))
            if tensor.ndim == 1:
                x = 0.3 * x + any(part in name for part in ("norm", "LayerNorm", "ln_", "layer_scalar")) * (
                    not name.endswith("bias")
                )
            else:
                x *= 1.2 / np.sqrt(16 if "embed" in name or "wte" in name else tensor.shape[-1])
            tensor.copy_(torch.tensor(x, dtype=torch.bfloat16))
    model.published_type = CASES[family][shape]["model_type"]
    return model.eval()


def _train_buffers(model):
    """Makes parameters of buffers that files hold, so that they have gradients.

    These are Gemma 4's factors after layers and BART's bias of logits.
    """
    for module in model.modules():
        for name in ("layer_scalar", "final_logits_bias"):
            if name in module._buffers:
                setattr(module, name, torch.nn.Parameter(module._buffers.pop(name)))


def _moved(model):
    """Returns buffers that files hold: biases in the choice of experts, which have no gradient."""
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("correction_bias")}


def tokens(family, shape):
    """Returns the tokens of a case, (B, T)."""
    rng = np.random.default_rng(zlib.crc32(f"{shape} {family}".encode()))
    fields = CASES[family][shape]
    # The last numbers are those of images in multimodal models.
    count = fields["text_config"]["vocab_size"] - 4 if "text_config" in fields else fields["vocab_size"]
    ids = rng.integers(0, count, (BATCH, LENGTH))
    # A padding token would move the positions of RoBERTa.
    return np.where(ids == fields.get("pad_token_id"), count - 1, ids)


def save(model, folder, dtype=torch.bfloat16):
    """Writes the model in the format of published models."""
    model.save_pretrained(folder, state_dict={name: x.to(dtype) for name, x in model.state_dict().items()})
    (pathlib.Path(folder) / "generation_config.json").unlink(missing_ok=True)
    path = pathlib.Path(folder) / "config.json"
    if (fields := json.loads(path.read_text()))["model_type"] != model.published_type:
        path.write_text(json.dumps(fields | {"model_type": model.published_type}, indent=2) + "\n")


def logits(model, ids):
    """Returns logits (B, T, V)."""
    with torch.no_grad():
        return _forward(model, ids).logits.numpy()


def _forward(model, ids):
    """Returns the output of a pass; a model with an encoder reads the same text backwards as its source."""
    if model.config.is_encoder_decoder:
        source = torch.tensor(ids[:, ::-1].copy())
        return model(input_ids=source, decoder_input_ids=torch.tensor(ids), use_cache=False)
    cache = {} if model.config.model_type in ENCODERS else {"use_cache": False}
    return _takes_text(model)(torch.tensor(ids), **cache)


def _takes_text(model):
    """Returns the model, or the language model in a Llama 4, which fails without images in transformers 5.24."""
    return model.language_model if model.config.model_type == "llama4" else model


def gradients(model, ids, folder):
    """Returns the gradient of the mean next-token cross-entropy, by the names that tensors have in files."""
    model.zero_grad()
    out = _forward(model, ids).logits[:, :-1]
    torch.nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), torch.tensor(ids)[:, 1:].reshape(-1)).backward()
    gradient = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    model.save_pretrained(folder, state_dict={n: torch.zeros_like(b) for n, b in _moved(model).items()} | gradient)
    return ours.arrays_of(LanguageModelFolder(pathlib.Path(folder)))


def greedy(model, ids):
    """Returns the greedily generated tokens of both prompts, each alone, by the model's own `generate`.

    It drops Phi-3's cache where a text passes the original length. With "dynamic" scaling it keeps the keys of shorter
    texts, which is another function than the forward pass, and with a decoder deeper than the encoder T5's cache lacks
    layers: there it runs without a cache.
    """
    model = _takes_text(model)
    scaling = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    model.generation_config = transformers.GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=scaling.get("rope_type") != "dynamic"
    )
    if model.config.is_encoder_decoder:
        start = {"decoder_start_token_id": model.config.decoder_start_token_id, "pad_token_id": 0}
        deeper = getattr(model.config, "num_decoder_layers", 0) > model.config.num_hidden_layers
        model.generation_config.update(**start, use_cache=not deeper)
    prompts = [torch.tensor(row[None, :length]) for row, length in zip(ids, PROMPTS, strict=True)]
    return [
        model.generate(prompt, attention_mask=torch.ones_like(prompt))[0, -NEW_TOKENS:].tolist() for prompt in prompts
    ]
