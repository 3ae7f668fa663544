"""The compared shapes of all other families."""

from tests.parity.shapes import LLAMA_3_SCALING, LLAMA_LIKE, SMALL, YARN

GPT2 = {"model_type": "gpt2", "vocab_size": 64, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 4}
GPT1 = GPT2 | {"model_type": "openai-gpt"}
PHI3 = LLAMA_LIKE | {"model_type": "phi3", "max_position_embeddings": 96, "original_max_position_embeddings": 16}
LONG = {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 6.0]}
MULTIPLIERS = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 5.0,
}
COHERE2 = LLAMA_LIKE | {"model_type": "cohere2", "sliding_window": 6}
GPT_NEOX = SMALL | {"model_type": "gpt_neox", "num_attention_heads": 4, "intermediate_size": 24}
GPTJ = {"model_type": "gptj", "vocab_size": 64, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 4}
BLOOM = {"model_type": "bloom", "vocab_size": 64, "hidden_size": 16, "n_layer": 2}
OPT = SMALL | {"model_type": "opt", "num_attention_heads": 4, "ffn_dim": 24}
FALCON = SMALL | {"model_type": "falcon", "num_attention_heads": 4}
LLAMA4 = LLAMA_LIKE | {
    "model_type": "llama4_text",
    "head_dim": 6,
    "intermediate_size": 10,
    "intermediate_size_mlp": 20,
    "num_local_experts": 4,
    "attention_chunk_size": 6,
    "floor_scale": 4,
    "attn_scale": 0.3,
}
MAMBA2 = SMALL | {
    "model_type": "mamba2",
    "num_heads": 4,
    "head_dim": 8,
    "n_groups": 2,
    "state_size": 6,
    "chunk_size": 8,  # of the library: rows have several chunks
}
GRANITE_HYBRID = LLAMA_LIKE | {
    "model_type": "granitemoehybrid",
    "mamba_n_heads": 4,
    "mamba_d_state": 6,
    "mamba_chunk_size": 8,
    "intermediate_size": 10,
    "shared_intermediate_size": 14,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "position_embedding_type": "nope",
}
GROK = {
    "model_type": "grok-1",
    "vocab_size": 32,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "intermediate_size": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
}

CASES = {
    "gpt2": {
        "tied": GPT2,
        "untied, other width, unscaled": GPT2
        | {
            "n_inner": 20,
            "tie_word_embeddings": False,
            "activation_function": "gelu",
            "scale_attn_weights": False,
        },
        "three layers, scaled by layer": GPT2
        | {
            "n_layer": 3,
            "n_head": 1,
            "activation_function": "relu",
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
        },
    },
    "gpt1": {
        "tied": GPT1,
        "untied, relu, 3 layers, one head": GPT1
        | {"tie_word_embeddings": False, "afn": "relu", "n_layer": 3, "n_head": 1},
        "swish, six heads of three": GPT1 | {"afn": "swish", "n_embd": 18, "n_head": 6, "layer_norm_epsilon": 1e-3},
    },
    "phi3": {
        "LongRoPE past 16, window 9": PHI3 | {"rope_scaling": LONG, "sliding_window": 9, "num_key_value_heads": 1},
        "half of each head turns, tied": PHI3
        | {
            "rope_scaling": LONG | {"short_factor": [1.5], "long_factor": [5.0]},
            "partial_rotary_factor": 0.5,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
        },
        "plain, window of all": PHI3 | {"sliding_window": 4096, "num_key_value_heads": 4, "hidden_act": "gelu"},
    },
    "granite": {
        "multipliers": LLAMA_LIKE | {"model_type": "granite"} | MULTIPLIERS,
        "biases, one key head, yarn": LLAMA_LIKE
        | {
            "model_type": "granite",
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 1,
            "rope_scaling": YARN,
        }
        | MULTIPLIERS,
        "tied, wide heads, unscaled": LLAMA_LIKE
        | {"model_type": "granite", "tie_word_embeddings": True, "head_dim": 6, "num_hidden_layers": 3},
    },
    "smollm3": {
        "every third without positions": LLAMA_LIKE
        | {"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layer_interval": 3},
        "windows of 6, biases, untied": LLAMA_LIKE
        | {
            "model_type": "smollm3",
            "num_hidden_layers": 4,
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 6,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
        "layers named, one key head, yarn": LLAMA_LIKE
        | {
            "model_type": "smollm3",
            "num_hidden_layers": 3,
            "no_rope_layers": [0, 1, 1],
            "num_key_value_heads": 1,
            "rope_scaling": YARN,
            "head_dim": 6,
        },
    },
    "starcoder2": {
        "window of 7": LLAMA_LIKE | {"model_type": "starcoder2", "sliding_window": 7, "norm_epsilon": 1e-3},
        "no biases, untied, one key head": LLAMA_LIKE
        | {
            "model_type": "starcoder2",
            "use_bias": False,
            "tie_word_embeddings": False,
            "num_key_value_heads": 1,
            "hidden_act": "relu",
        },
        "wide heads, linear, 3 layers": LLAMA_LIKE
        | {
            "model_type": "starcoder2",
            "head_dim": 6,
            "num_hidden_layers": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "sliding_window": 4096,
        },
    },
    "cohere2": {
        "every third global": COHERE2 | {"num_hidden_layers": 4, "sliding_window_pattern": 3, "logit_scale": 0.3},
        "biases, untied, one key head": COHERE2
        | {
            "attention_bias": True,
            "tie_word_embeddings": False,
            "num_key_value_heads": 1,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_scaling": YARN,
        },
        "all layers local, 3 layers": COHERE2 | {"num_hidden_layers": 3, "sliding_window": 3, "layer_norm_eps": 1e-3},
    },
    "glm4": {
        "heads of 8, half turned": LLAMA_LIKE | {"model_type": "glm4", "head_dim": 8},
        "no biases, one key head, tied": LLAMA_LIKE
        | {
            "model_type": "glm4",
            "head_dim": 6,
            "partial_rotary_factor": 1.0,
            "attention_bias": False,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
        },
        "yarn, 3 layers": LLAMA_LIKE
        | {"model_type": "glm4", "head_dim": 8, "num_hidden_layers": 3, "rope_scaling": YARN, "rms_norm_eps": 1e-3},
    },
    "gpt_neox": {
        "parallel, a quarter turned": GPT_NEOX | {"num_attention_heads": 2},
        "one after the other, all turned": GPT_NEOX
        | {"use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 500.0, "num_hidden_layers": 3},
        "no biases, tied, linear": GPT_NEOX
        | {
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rotary_pct": 0.5,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "hidden_act": "gelu_fast",
        },
    },
    "gptj": {
        "half turned": GPTJ | {"rotary_dim": 2},
        "two wide heads, other width": GPTJ | {"rotary_dim": 6, "n_head": 2, "n_inner": 20, "n_layer": 3},
        "all turned, relu": GPTJ | {"rotary_dim": 4, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
    },
    "bloom": {
        "four heads": BLOOM | {"n_head": 4},
        "six heads, no power of two": BLOOM | {"n_head": 6, "hidden_size": 18, "n_layer": 3},
        "one head, untied": BLOOM | {"n_head": 1, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
    },
    "opt": {
        "norms before": OPT,
        "norms after, no biases": OPT | {"do_layer_norm_before": False, "enable_bias": False, "num_hidden_layers": 3},
        "350M: narrow table, norms after": OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 10},
        "narrow table, plain norms, untied": OPT
        | {
            "word_embed_proj_dim": 12,
            "layer_norm_elementwise_affine": False,
            "tie_word_embeddings": False,
            "num_attention_heads": 1,
            "activation_function": "gelu",
        },
    },
    "falcon": {
        "7B: one key head": FALCON,
        "40B: new decoder, two norms": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        "RW: ALiBi, biases, in order": FALCON
        | {
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "num_attention_heads": 12,  # bfloat16 rounds the slopes of some of them
            "hidden_size": 24,
        },
        "11B: new decoder, one norm, untied": FALCON
        | {
            "new_decoder_architecture": True,
            "num_kv_heads": 1,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 20,
            "tie_word_embeddings": False,
            "num_hidden_layers": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    },
    "llama4": {
        "chunks of 6, one layer without": LLAMA4 | {"num_hidden_layers": 4},
        "every second sparse, biases": LLAMA4
        | {
            "num_hidden_layers": 4,
            "interleave_moe_layer_step": 2,
            "no_rope_layer_interval": 3,
            "use_qk_norm": False,
            "attention_bias": True,
            "num_experts_per_tok": 2,
        },
        "first layer dense, scaled, tied": LLAMA4
        | {
            "num_hidden_layers": 3,
            "moe_layers": [1, 2],
            "no_rope_layers": [1, 0, 1],
            "num_key_value_heads": 1,
            "rope_scaling": LLAMA_3_SCALING | {"high_freq_factor": 1.0},
            "tie_word_embeddings": True,
            "attn_temperature_tuning": False,
        },
    },
    "mamba2": {
        "two groups": MAMBA2,
        "one group, wide, no tap biases": MAMBA2
        | {
            "expand": 3,
            "num_heads": 3,
            "head_dim": 16,
            "n_groups": 1,
            "conv_kernel": 3,
            "use_conv_bias": False,
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
            "layer_norm_epsilon": 1e-3,
        },
        "biases, a head a group": MAMBA2 | {"n_groups": 4, "use_bias": True, "conv_kernel": 2, "chunk_size": 256},
    },
    "granitemoehybrid": {
        "second layer attends": GRANITE_HYBRID
        | MULTIPLIERS
        | {"num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"]},
        "rotary, biases, tied, no experts": GRANITE_HYBRID
        | {
            "num_local_experts": 0,
            "position_embedding_type": "rope",
            "layer_types": ["attention", "mamba"],
            "attention_bias": True,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "mamba_n_groups": 2,
            "tie_word_embeddings": True,
        },
        "last layer attends, 3 of 5 experts": GRANITE_HYBRID
        | {
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "mamba_expand": 3,
            "mamba_n_heads": 3,
            "mamba_d_conv": 3,
        },
        "all layers attend, yarn": GRANITE_HYBRID
        | {
            "num_local_experts": 0,
            "layer_types": 2 * ["attention"],
            "position_embedding_type": "rope",
            "rope_scaling": YARN,
            "num_key_value_heads": 1,
        },
    },
    "grok": {
        "two of four experts": GROK,
        "one key head, wide heads, capped": GROK
        | {
            "num_key_value_heads": 1,
            "head_dim": 6,
            "max_attn_value": 2.0,
            "attn_output_multiplier": 0.7,
            "num_experts": 3,
        },
        "untied, three layers, one expert": GROK
        | {
            "num_hidden_layers": 3,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "tie_word_embeddings": False,
            "embedding_multiplier_scale": 2.0,
            "output_multiplier_scale": 3.0,
            "rms_norm_eps": 1e-3,
        },
    },
}
