"""Models of `transformers` in the files that their publishers uploaded first, with other keys and other tensors.

phi-msft: the keys of Microsoft's configuration_phi.py, and the tensors that convert_phi_weights_to_hf.py of
`transformers` 4.40 reads. stablelm_epoch: the keys of Stability's configuration_stablelm_epoch.py; same tensors.
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.parity import reference
from tests.parity.cases import CASES

logits, greedy = reference.logits, reference.greedy

PHI_KEYS = {
    "activation_function": "hidden_act",
    "attn_pdrop": "attention_dropout",
    "layer_norm_epsilon": "layer_norm_eps",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}
STABLELM_KEYS = {"norm_eps": "layer_norm_eps", "rope_pct": "partial_rotary_factor"}
# In this order, from today's names to the first ones.
PHI_NAMES = (
    ("model.embed_tokens.", "transformer.embd.wte."),
    ("lm_head.", "lm_head.linear."),
    ("model.final_layernorm.", "lm_head.ln."),
    ("model.layers.", "transformer.h."),
    (".input_layernorm.", ".ln."),
    (".self_attn.", ".mixer."),
    (".dense.", ".out_proj."),
)


def make(family, shape):
    """Returns the model of a case."""
    fields = dict(CASES[family][shape])
    if family == "phi_msft":
        fields |= {"n_inner": fields.get("n_inner") or 4 * fields["n_embd"]}
        fields["partial_rotary_factor"] = fields.pop("rotary_dim") * fields["n_head"] / fields["n_embd"]
        fields["vocab_size"] = -(-fields["vocab_size"] // 64) * 64
        keys, model_type = PHI_KEYS, "phi"
    else:
        keys, model_type = STABLELM_KEYS, "stablelm"
    fields = {keys.get(key, key): value for key, value in fields.items()} | {"model_type": model_type}
    model = reference.make(family, shape, fields)
    model.published = CASES[family][shape]
    return model


def save(model, folder):
    """Writes the model in the format of its first files."""
    reference.save(model, folder)
    (pathlib.Path(folder) / "config.json").write_text(json.dumps(model.published, indent=2) + "\n")
    path = pathlib.Path(folder) / "model.safetensors"
    save_file(_renamed(model, load_file(path)), path)


def gradients(model, ids, folder):
    """Returns the gradient of the mean next-token cross-entropy, by the names that tensors have in the first files."""
    return _renamed(model, reference.gradients(model, ids, folder))


def _renamed(model, tensors):
    if model.published["model_type"] != "phi-msft":
        return tensors
    fused = {}
    for name, x in tensors.items():
        for projection in ("q", "k", "v"):
            if f".{projection}_proj." in name:
                together = [tensors[name.replace(f".{projection}_proj.", f".{other}_proj.")] for other in "qkv"]
                name, x = name.replace(f".{projection}_proj.", ".Wqkv."), np.concatenate(together)
        for today, first in PHI_NAMES:
            name = name.replace(today, first)
        fused[name] = np.ascontiguousarray(x)
    return fused
