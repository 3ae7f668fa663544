"""The compared shapes of families with LLaMA's tensor names."""

from tests.parity.shapes import LLAMA_3_SCALING, LLAMA_LIKE, SMALL, YARN

QWEN_MOE = LLAMA_LIKE | {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 10,
}
QWEN2_MOE = QWEN_MOE | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 14}
QWEN3_NEXT = QWEN_MOE | {
    "model_type": "qwen3_next",
    "num_hidden_layers": 4,
    "head_dim": 8,
    "shared_expert_intermediate_size": 14,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
}
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
HF_OLMO = {
    "model_type": "hf_olmo",
    "vocab_size": 64,
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 4,
    "max_sequence_length": 128,
    "rope": True,
    "include_bias": False,
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
        "1 of 4 experts chosen": LLAMA_LIKE
        | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 1},
        "window, one key head, 3 chosen": LLAMA_LIKE
        | {
            "model_type": "mixtral",
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "sliding_window": 6,
            "num_key_value_heads": 1,
        },
        "all of 3, tied, wide heads, linear": LLAMA_LIKE
        | {
            "model_type": "mixtral",
            "num_local_experts": 3,
            "num_experts_per_tok": 3,
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
    "qwen3_next": {
        "fourth layer attends": QWEN3_NEXT,
        "one key head, first dense, biases": QWEN3_NEXT
        | {
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "linear_attention"],
            "mlp_only_layers": [0],
            "attention_bias": True,
            "num_key_value_heads": 1,
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 3,
            "linear_conv_kernel_dim": 2,
            "tie_word_embeddings": True,
            "norm_topk_prob": False,
        },
        "half turned, yarn, second sparse": QWEN3_NEXT
        | {
            "num_hidden_layers": 2,
            "full_attention_interval": 2,
            "decoder_sparse_step": 2,
            "linear_num_value_heads": 2,
            "linear_conv_kernel_dim": 3,
            "partial_rotary_factor": 0.5,
            "rope_scaling": YARN,
            "rms_norm_eps": 1e-4,
        },
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
    "olmo": {
        "clipped, untied": LLAMA_LIKE | {"model_type": "olmo", "clip_qkv": 0.7},
        "tied, one key head, yarn": LLAMA_LIKE
        | {"model_type": "olmo", "tie_word_embeddings": True, "num_key_value_heads": 1, "rope_scaling": YARN},
        "biases, four key heads, 3 layers": LLAMA_LIKE
        | {
            "model_type": "olmo",
            "attention_bias": True,
            "num_key_value_heads": 4,
            "num_hidden_layers": 3,
            "clip_qkv": 1.5,
        },
    },
    "hf_olmo": {
        "norms without weights, clipped": HF_OLMO
        | {"layer_norm_with_affine": False, "clip_qkv": 0.7, "mlp_ratio": 3, "weight_tying": False},
        "RMSNorm, tied, one key head": HF_OLMO
        | {"layer_norm_type": "rms", "layer_norm_eps": 1e-3, "mlp_hidden_size": 40, "multi_query_attention": True},
        "words padded to 72, 3 layers": HF_OLMO
        | {
            "layer_norm_type": "rms",
            "embedding_size": 72,
            "n_kv_heads": 2,
            "n_layers": 3,
            "rope_theta": 500.0,
            "weight_tying": False,
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
        "renormalised, one key, clipped": LLAMA_LIKE
        | {
            "model_type": "olmoe",
            "clip_qkv": 0.7,
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "num_key_value_heads": 1,
        },
        "biases, tied, yarn with a step": LLAMA_LIKE
        | {
            "model_type": "olmoe",
            "num_experts": 3,
            "num_experts_per_tok": 1,
            "norm_topk_prob": True,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_scaling": YARN | {"beta_fast": 0.9, "beta_slow": 0.9},
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
}
