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

QWEN_MOE = LLAMA_LIKE | {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 10,
}
QWEN2_MOE = QWEN_MOE | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 14}
GPT2 = {"model_type": "gpt2", "vocab_size": 64, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 4}
GEMMA2 = LLAMA_LIKE | {"model_type": "gemma2", "head_dim": 6, "sliding_window": 6, "query_pre_attn_scalar": 16}
GEMMA2 |= {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}
GEMMA3 = LLAMA_LIKE | {"model_type": "gemma3_text", "head_dim": 6, "sliding_window": 6, "num_hidden_layers": 6}
DEEPSEEK = SMALL | {
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "intermediate_size": 24,
    "moe_intermediate_size": 10,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 10,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "hidden_size": 18,
}
ONE_HEAD = {"num_attention_heads": 1, "num_key_value_heads": 1}
V3_GROUPS = {"n_group": 3, "topk_group": 2, "routed_scaling_factor": 1.7}
GPT_OSS = LLAMA_LIKE | {
    "model_type": "gpt_oss",
    "head_dim": 6,
    "sliding_window": 5,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "rope_scaling": YARN | {"truncate": False, "beta_fast": 32.0, "beta_slow": 1.0},
}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0]}
NEOX = SMALL | {"model_type": "gpt_neox", "num_attention_heads": 2, "intermediate_size": 24}
GPTJ = {"model_type": "gptj", "vocab_size": 64, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2}
GPTJ |= {"rotary_dim": 4}
FALCON = SMALL | {"model_type": "falcon", "num_attention_heads": 4}
GRANITE = {
    "model_type": "granite",
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.7,
    "logits_scaling": 2.5,
}

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
    "mistral": {
        "window 7 in all layers": LLAMA_LIKE | {"model_type": "mistral", "sliding_window": 7, "head_dim": 6},
        "no window, one key head, tied": LLAMA_LIKE
        | {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": 1, "tie_word_embeddings": True},
        "window 5, yarn, 3 layers": LLAMA_LIKE
        | {"model_type": "mistral", "sliding_window": 5, "num_hidden_layers": 3, "rope_scaling": YARN},
    },
    "mixtral": {
        "4 experts, 2 chosen": LLAMA_LIKE | {"model_type": "mixtral", "num_local_experts": 4},
        "window, one key head, 3 chosen": LLAMA_LIKE
        | {
            "model_type": "mixtral",
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "sliding_window": 6,
            "num_key_value_heads": 1,
        },
        "tied, wide heads, linear": LLAMA_LIKE
        | {
            "model_type": "mixtral",
            "num_local_experts": 3,
            "tie_word_embeddings": True,
            "head_dim": 6,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
    },
    "qwen2": {
        "untied": LLAMA_LIKE | {"model_type": "qwen2"},
        "windows from the second of 4": LLAMA_LIKE
        | {
            "model_type": "qwen2",
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
        "yarn, one key head": LLAMA_LIKE | {"model_type": "qwen2", "rope_scaling": YARN, "num_key_value_heads": 1},
    },
    "qwen3": {
        "heads of 10": LLAMA_LIKE | {"model_type": "qwen3", "head_dim": 10, "tie_word_embeddings": True},
        "windows, biases": LLAMA_LIKE
        | {
            "model_type": "qwen3",
            "head_dim": 4,
            "attention_bias": True,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 2,
        },
        "yarn, one key head": LLAMA_LIKE
        | {"model_type": "qwen3", "head_dim": 8, "rope_scaling": YARN, "num_key_value_heads": 1},
    },
    "qwen2_moe": {
        "all layers sparse": QWEN2_MOE,
        "first layer dense, renormalised": QWEN2_MOE
        | {"num_hidden_layers": 3, "mlp_only_layers": [0], "norm_topk_prob": True},
        "every second sparse, windows": QWEN2_MOE
        | {
            "num_hidden_layers": 4,
            "decoder_sparse_step": 2,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 3,
            "tie_word_embeddings": True,
        },
    },
    "qwen3_moe": {
        "all layers sparse": QWEN_MOE | {"model_type": "qwen3_moe", "head_dim": 6, "norm_topk_prob": True},
        "first layer dense": QWEN_MOE
        | {"model_type": "qwen3_moe", "num_hidden_layers": 3, "mlp_only_layers": [0], "num_key_value_heads": 1},
        "every second sparse, yarn, biases": QWEN_MOE
        | {
            "model_type": "qwen3_moe",
            "num_hidden_layers": 4,
            "decoder_sparse_step": 2,
            "attention_bias": True,
            "rope_scaling": YARN,
            "tie_word_embeddings": True,
        },
    },
    "gpt2": {
        "tied": GPT2,
        "untied, other width": GPT2 | {"n_inner": 20, "tie_word_embeddings": False, "activation_function": "gelu"},
        "three layers, one head": GPT2 | {"n_layer": 3, "n_head": 1, "activation_function": "relu"},
    },
    "gemma": {
        "one key head, wide heads": LLAMA_LIKE | {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 8},
        "biases, untied": LLAMA_LIKE
        | {"model_type": "gemma", "attention_bias": True, "tie_word_embeddings": False, "head_dim": 4},
        "linear, 3 layers": LLAMA_LIKE
        | {
            "model_type": "gemma",
            "num_hidden_layers": 3,
            "head_dim": 6,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    },
    "gemma2": {
        "windows of 6, capped": GEMMA2,
        "no caps, one key head, 3 layers": GEMMA2
        | {
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
        },
        "biases, untied, scale of its own": GEMMA2
        | {"attention_bias": True, "tie_word_embeddings": False, "query_pre_attn_scalar": 30},
    },
    "gemma3": {
        "two local to one global": GEMMA3 | {"layer_types": 2 * [*2 * ["sliding_attention"], "full_attention"]},
        "global ones scaled, one key head": GEMMA3
        | {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "biases, untied, capped": GEMMA3
        | {
            "num_hidden_layers": 2,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "final_logit_softcapping": 3.0,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    },
    "olmo2": {
        "untied": LLAMA_LIKE | {"model_type": "olmo2", "num_key_value_heads": 4},
        "one key head, yarn": LLAMA_LIKE | {"model_type": "olmo2", "num_key_value_heads": 1, "rope_scaling": YARN},
        "biases, tied, 3 layers": LLAMA_LIKE
        | {
            "model_type": "olmo2",
            "attention_bias": True,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
            "rms_norm_eps": 1e-4,
        },
    },
    "olmo3": {
        "windows of 6": LLAMA_LIKE | {"model_type": "olmo3", "num_hidden_layers": 5, "sliding_window": 6},
        "global ones scaled": LLAMA_LIKE
        | {
            "model_type": "olmo3",
            "num_hidden_layers": 4,
            "sliding_window": 6,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "full_attention": YARN | {"rope_theta": 5e5, "attention_factor": 1.2},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
            },
        },
        "biases, tied": LLAMA_LIKE
        | {
            "model_type": "olmo3",
            "attention_bias": True,
            "tie_word_embeddings": True,
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 3,
        },
    },
    "olmoe": {
        "4 experts, 2 chosen": LLAMA_LIKE | {"model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2},
        "renormalised, one key head": LLAMA_LIKE
        | {
            "model_type": "olmoe",
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "num_key_value_heads": 1,
        },
        "biases, tied, yarn": LLAMA_LIKE
        | {
            "model_type": "olmoe",
            "num_experts": 3,
            "num_experts_per_tok": 1,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_scaling": YARN,
        },
    },
    "deepseek_v2": {
        "first layer dense": DEEPSEEK | {"model_type": "deepseek_v2", "first_k_dense_replace": 1},
        "groups, yarn": DEEPSEEK
        | {
            "model_type": "deepseek_v2",
            "topk_method": "group_limited_greedy",
            "n_group": 3,
            "topk_group": 2,
            "routed_scaling_factor": 2.0,
            "rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3},
        },
        "no latent for queries, one head": DEEPSEEK
        | {"model_type": "deepseek_v2", "q_lora_rank": None, **ONE_HEAD, "tie_word_embeddings": True},
    },
    "deepseek_v3": {
        "first layer dense": DEEPSEEK | {"model_type": "deepseek_v3", "first_k_dense_replace": 1, **V3_GROUPS},
        "yarn, wide heads": DEEPSEEK
        | {
            "model_type": "deepseek_v3",
            "first_k_dense_replace": 0,
            "qk_nope_head_dim": 7,
            "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
            **V3_GROUPS,
        },
        "one group, not renormalised": DEEPSEEK
        | {
            "model_type": "deepseek_v3",
            "num_hidden_layers": 3,
            "first_k_dense_replace": 2,
            "q_lora_rank": None,
            "norm_topk_prob": False,
            "n_group": 1,
            "topk_group": 1,
        },
    },
    "gpt_oss": {
        "windows of 5, yarn": GPT_OSS,
        "one key head, 3 layers": GPT_OSS | {"num_hidden_layers": 3, "num_key_value_heads": 1, "swiglu_limit": 0.5},
        "no biases, tied": GPT_OSS
        | {"attention_bias": False, "tie_word_embeddings": True, "layer_types": 2 * ["full_attention"]},
    },
    "phi3": {
        "no scaling": LLAMA_LIKE | {"model_type": "phi3", "original_max_position_embeddings": 128},
        "past the original length, window": LLAMA_LIKE
        | {
            "model_type": "phi3",
            "sliding_window": 7,
            "num_key_value_heads": 1,
            "original_max_position_embeddings": 8,
            "rope_scaling": LONGROPE,
        },
        "half a head turned, tied": LLAMA_LIKE
        | {
            "model_type": "phi3",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 64,
            "rope_scaling": LONGROPE | {"partial_rotary_factor": 0.5},
        },
    },
    "gpt_neox": {
        "side by side": NEOX,
        "one after the other, no biases": NEOX
        | {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"},
        "all of a head turned, tied": NEOX | {"rotary_pct": 1.0, "tie_word_embeddings": True, "num_hidden_layers": 3},
    },
    "gptj": {
        "half of a head": GPTJ,
        "all of a head, other width": GPTJ | {"rotary_dim": 8, "n_inner": 20},
        "one head, 3 layers": GPTJ | {"n_head": 1, "n_layer": 3, "rotary_dim": 6, "activation_function": "gelu"},
    },
    "granite": {
        "all factors": LLAMA_LIKE | GRANITE,
        "biases, tied, one key head": LLAMA_LIKE
        | GRANITE
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1},
        "wide heads, linear, 3 layers": LLAMA_LIKE
        | GRANITE
        | {"head_dim": 6, "num_hidden_layers": 3, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    },
    "cohere2": {
        "three local to one global": LLAMA_LIKE
        | {"model_type": "cohere2", "num_hidden_layers": 5, "sliding_window": 6, "logit_scale": 0.3},
        "biases, untied, one key head": LLAMA_LIKE
        | {
            "model_type": "cohere2",
            "attention_bias": True,
            "tie_word_embeddings": False,
            "num_key_value_heads": 1,
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 4,
        },
        "all local, scaled": LLAMA_LIKE
        | {
            "model_type": "cohere2",
            "sliding_window": 12,
            "layer_types": 2 * ["sliding_attention"],
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    },
    "smollm3": {
        "fourth of 5 without positions": LLAMA_LIKE | {"model_type": "smollm3", "num_hidden_layers": 5},
        "biases, untied, one key head": LLAMA_LIKE
        | {
            "model_type": "smollm3",
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "num_key_value_heads": 1,
            "no_rope_layers": [0, 1],
        },
        "windows where no positions are, yarn": LLAMA_LIKE
        | {
            "model_type": "smollm3",
            "num_hidden_layers": 4,
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "rope_scaling": YARN,
        },
    },
    "starcoder2": {
        "window of 6, tied": LLAMA_LIKE | {"model_type": "starcoder2", "sliding_window": 6},
        "no biases, untied, one key head": LLAMA_LIKE
        | {
            "model_type": "starcoder2",
            "use_bias": False,
            "tie_word_embeddings": False,
            "num_key_value_heads": 1,
        },
        "3 layers, other activation": LLAMA_LIKE
        | {"model_type": "starcoder2", "num_hidden_layers": 3, "hidden_act": "relu", "num_key_value_heads": 4},
    },
    "glm4": {
        "half a head turned": LLAMA_LIKE | {"model_type": "glm4", "head_dim": 8},
        "no biases, tied, one key head": LLAMA_LIKE
        | {
            "model_type": "glm4",
            "head_dim": 4,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
        },
        "all of a head turned, 3 layers": LLAMA_LIKE
        | {"model_type": "glm4", "head_dim": 6, "num_hidden_layers": 3, "partial_rotary_factor": 1.0},
    },
    "falcon": {
        "one key head": FALCON,
        "two groups, two norms, biases": FALCON
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "tie_word_embeddings": False},
        "a key for each query, other width": FALCON
        | {"multi_query": False, "ffn_hidden_size": 20, "num_hidden_layers": 3},
    },
}
