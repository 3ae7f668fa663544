"""The compared shapes of Gemma 4; see tests/parity/cases.py."""

from tests.parity.shapes import LLAMA_LIKE

GEMMA4 = LLAMA_LIKE | {
    "model_type": "gemma4_text",
    "num_hidden_layers": 3,
    "head_dim": 6,
    "global_head_dim": 8,
    "sliding_window": 6,
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
}
EXPERTS = GEMMA4 | {
    "num_hidden_layers": 2,
    "enable_moe_block": True,
    "num_experts": 5,
    "top_k_experts": 2,
    "moe_intermediate_size": 10,
}

CASES = {
    "gemma4": {
        "values from keys, one global head": GEMMA4
        | {
            "num_global_key_value_heads": 1,
            "layer_types": [*2 * ["sliding_attention"], "full_attention"],
            "final_logit_softcapping": 3.0,
        },
        "experts, vectors, shared keys": EXPERTS
        | {
            "num_hidden_layers": 4,
            "num_experts": 3,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": 64,
            "layer_types": 2 * ["sliding_attention", "full_attention"],
        },
        "slower, biases, untied": GEMMA4
        | {
            "num_hidden_layers": 2,
            "attention_bias": True,
            "attention_k_eq_v": False,
            "layer_types": ["full_attention", "full_attention"],
            "global_head_dim": 14,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "proportional",
                    "rope_theta": 1e3,
                    "partial_rotary_factor": 0.6,
                    "factor": 2.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "tie_word_embeddings": False,
        },
        "late ones take keys, wide, SiLU": GEMMA4
        | {
            "num_hidden_layers": 5,
            "num_key_value_heads": 1,
            "num_global_key_value_heads": 2,
            "num_kv_shared_layers": 3,
            "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": 64,
            "use_double_wide_mlp": True,
            "layer_types": ["full_attention", *3 * ["sliding_attention"], "full_attention"],
            "hidden_activation": "silu",
        },
        "vectors of layers, untied, capped": GEMMA4
        | {
            "attention_k_eq_v": False,
            "hidden_size_per_layer_input": 10,
            "vocab_size_per_layer_input": 64,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rms_norm_eps": 1e-3,
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": False,
        },
        "experts": EXPERTS | {"layer_types": ["sliding_attention", "full_attention"]},
        "all experts, biases, untied": EXPERTS
        | {
            "num_experts": 3,
            "top_k_experts": 3,
            "moe_intermediate_size": 9,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    },
}
