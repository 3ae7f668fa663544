"""The shapes in which every family is compared: small, and odd on purpose.

Heads are wider than their share of the model, key heads few, windows and original lengths shorter than the 20 tokens
that are read, biases on and off, embeddings tied and not, first layers dense.
"""

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 128}
LLAMA_LIKE = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}

LLAMA_3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}

CASES = {
    "llama": {
        "one key head, wide heads": LLAMA_LIKE
        | {"model_type": "llama", "num_key_value_heads": 1, "head_dim": 6, "rms_norm_eps": 1e-5},
        "biases, scaled as 3.1": LLAMA_LIKE
        | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA_3_SCALING},
        "tied, 3 layers, yarn": LLAMA_LIKE
        | {
            "model_type": "llama",
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
            "rope_scaling": YARN,
            "rope_theta": 500.0,
            "hidden_act": "gelu",
        },
        "linear": LLAMA_LIKE | {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
        "dynamic": LLAMA_LIKE
        | {
            "model_type": "llama",
            "max_position_embeddings": 16,
            "rope_scaling": {"type": "dynamic", "factor": 8.0},
        },
    },
}
