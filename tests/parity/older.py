"""Models of `transformers` in the files that their publishers uploaded first, with other keys and other tensors.

hf_olmo, phi-msft: the keys of the publishers' configuration files, and the tensors that convert_olmo_weights_to_hf.py and
convert_phi_weights_to_hf.py of `transformers` 4.40 read. stablelm_epoch: other keys, the same tensors.
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.parity import reference
from tests.parity.cases import CASES

logits, greedy = reference.logits, reference.greedy

# Of each form: the first keys and today's.
KEYS = {
    "hf_olmo": {
        "d_model": "hidden_size",
        "layer_norm_eps": "rms_norm_eps",
        "max_sequence_length": "max_position_embeddings",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "n_layers": "num_hidden_layers",
        "weight_tying": "tie_word_embeddings",
    },
    "phi_msft": {
        "activation_function": "hidden_act",
        "attn_pdrop": "attention_dropout",
        "layer_norm_epsilon": "layer_norm_eps",
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_head_kv": "num_key_value_heads",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "n_positions": "max_position_embeddings",
    },
    "stablelm_epoch": {"norm_eps": "layer_norm_eps", "rope_pct": "partial_rotary_factor"},
}
# Today's names of tensors and the first ones, in the order in which they are replaced.
NAMES = {
    "hf_olmo": (
        (".mlp.down_proj.", ".ff_out."),
        (".self_attn.o_proj.", ".attn_out."),
        (".input_layernorm.", ".attn_norm."),
        (".post_attention_layernorm.", ".ff_norm."),
        ("model.embed_tokens.", "model.transformer.wte."),
        ("model.norm.", "model.transformer.ln_f."),
        ("model.layers.", "model.transformer.blocks."),
        ("lm_head.", "model.transformer.ff_out."),
    ),
    "phi_msft": (
        ("model.embed_tokens.", "transformer.embd.wte."),
        ("lm_head.", "lm_head.linear."),
        ("model.final_layernorm.", "lm_head.ln."),
        ("model.layers.", "transformer.h."),
        (".input_layernorm.", ".ln."),
        (".self_attn.", ".mixer."),
        (".dense.", ".out_proj."),
    ),
}
# The tensors that lie in one tensor, in order.
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
JOINED = {
    "hf_olmo": {"att_proj": PROJECTIONS, "ff_proj": ("mlp.up_proj", "mlp.gate_proj")},
    "phi_msft": {"mixer.Wqkv": PROJECTIONS},
}


def make(family, shape):
    """Returns the model of a case."""
    fields = dict(CASES[family][shape])
    match family:
        case "hf_olmo":
            fused = fields.pop("mlp_hidden_size", fields.pop("mlp_ratio", 4) * fields["d_model"])
            rms = fields.pop("layer_norm_type", "default") == "rms"
            fields |= {"intermediate_size": fused // 2, "model_type": "llama" if rms else "olmo"}
            fields["vocab_size"] = fields.pop("embedding_size", fields["vocab_size"])
            fields |= {"weight_tying": fields.get("weight_tying", True)}
            fields |= {"n_kv_heads": 1} if fields.pop("multi_query_attention", False) else {}
            fields.setdefault("layer_norm_eps", 1e-5)
        case "phi_msft":
            fields |= {"n_inner": fields.get("n_inner") or 4 * fields["n_embd"], "model_type": "phi"}
            fields["partial_rotary_factor"] = fields.pop("rotary_dim") * fields["n_head"] / fields["n_embd"]
            fields["vocab_size"] = -(-fields["vocab_size"] // 64) * 64
        case "stablelm_epoch":
            fields["model_type"] = "stablelm"
    fields = {KEYS[family].get(key, key): value for key, value in fields.items()}
    model = reference.make(family, shape, fields)
    model.form, model.published = family, CASES[family][shape]
    return model


def save(model, folder):
    """Writes the model in the format of its first files."""
    reference.save(model, folder)
    (pathlib.Path(folder) / "config.json").write_text(json.dumps(model.published, indent=2) + "\n")
    path = pathlib.Path(folder) / "model.safetensors"
    save_file(_renamed(model.form, load_file(path)), path)


def gradients(model, ids, folder):
    """Returns the gradient of the mean next-token cross-entropy, by the names that tensors have in the first files."""
    return _renamed(model.form, reference.gradients(model, ids, folder))


def _renamed(form, tensors):
    renamed = {}
    for name, x in tensors.items():
        for joined, parts in JOINED.get(form, {}).items():
            for part in parts:
                if f".{part}." in name:
                    x = np.concatenate([tensors[name.replace(part, other)] for other in parts])
                    name = name.replace(part, joined)
        for today, first in NAMES.get(form, ()):
            name = name.replace(today, first)
        renamed[name] = np.ascontiguousarray(x)
    return renamed
