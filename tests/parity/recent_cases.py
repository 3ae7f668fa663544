"""The compared shapes of Baichuan, dots.llm1, GLM-4 MoE, Granite MoE, InternLM 2, Kimi K2, Ministral 3 and Seed-OSS."""

from tests.parity.llama_like_cases import DEEPSEEK, ONE_HEAD, V3_GROUPS
from tests.parity.other_cases import MULTIPLIERS
from tests.parity.shapes import LLAMA_LIKE, YARN

V3_EXPERTS = LLAMA_LIKE | {
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 10,
    "num_hidden_layers": 3,
    "head_dim": 6,
}
GLM4_MOE = V3_EXPERTS | {"model_type": "glm4_moe", "head_dim": 8}
DOTS1 = V3_EXPERTS | {"model_type": "dots1"}
MINISTRAL3 = LLAMA_LIKE | {"model_type": "ministral3", "head_dim": 6, "rms_norm_eps": 1e-5}
MINISTRAL3_SCALING = YARN | {"rope_theta": 1e4, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
GRANITE_MOE = LLAMA_LIKE | {"num_local_experts": 4, "intermediate_size": 10}
WITHOUT_CLASS = {
    "vocab_size": 32,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
}
INTERNLM2 = WITHOUT_CLASS | {"model_type": "internlm2", "max_position_embeddings": 128, "num_key_value_heads": 3}
BAICHUAN = WITHOUT_CLASS | {"model_type": "baichuan", "model_max_length": 128}

CASES = {
    "kimi_k2": {
        "published scaling, a step": DEEPSEEK
        | {
            "model_type": "kimi_k2",
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 2.827,
            "rope_theta": 50000.0,
            "rope_scaling": YARN | {"beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
        "all sparse, one shared, plain": DEEPSEEK
        | {
            "model_type": "kimi_k2",
            "first_k_dense_replace": 0,
            "n_shared_experts": 1,
            "num_experts_per_tok": 3,
            "n_group": 1,
            "topk_group": 1,
            "qk_rope_head_dim": 6,
            "rms_norm_eps": 1e-5,
        },
        "one head, 3 layers, tied": DEEPSEEK
        | {
            "model_type": "kimi_k2",
            **ONE_HEAD,
            "num_hidden_layers": 3,
            "first_k_dense_replace": 1,
            "tie_word_embeddings": True,
            **V3_GROUPS,
            "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
        },
    },
    "glm4_moe": {
        "norms, biases, first dense": GLM4_MOE
        | {"use_qk_norm": True, "attention_bias": True, "routed_scaling_factor": 2.5},
        "groups, no norms, one key head": GLM4_MOE
        | {
            "num_key_value_heads": 1,
            "n_group": 3,
            "topk_group": 2,
            "first_k_dense_replace": 2,
            "norm_topk_prob": False,
            "partial_rotary_factor": 1.0,
            "num_nextn_predict_layers": 1,
        },
        "all sparse, tied, yarn": GLM4_MOE
        | {
            "first_k_dense_replace": 0,
            "num_hidden_layers": 2,
            "tie_word_embeddings": True,
            "n_shared_experts": 1,
            "use_qk_norm": True,
            "rope_scaling": YARN,
            "rms_norm_eps": 1e-3,
        },
    },
    "dots1": {
        "first dense, renormalised": DOTS1
        | {"first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "sliding_window": None},
        "windows from the second, biases": DOTS1
        | {
            "sliding_window": 6,
            "max_window_layers": 1,
            "attention_bias": True,
            "num_key_value_heads": 1,
            "n_group": 2,
            "topk_group": 1,
        },
        "two dense, tied, linear": DOTS1
        | {
            "first_k_dense_replace": 2,
            "n_shared_experts": 1,
            "num_experts_per_tok": 3,
            "tie_word_embeddings": True,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    },
    "ministral3": {
        "growth in steps of 8": MINISTRAL3 | {"rope_parameters": MINISTRAL3_SCALING},
        "steps of 3, window 7, one key head": MINISTRAL3
        | {
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "sliding_window": 7,
            "tie_word_embeddings": True,
            "rope_parameters": MINISTRAL3_SCALING
            | {"original_max_position_embeddings": 3, "beta_fast": 4.0, "mscale_all_dim": 0.0},
        },
        "no growth": MINISTRAL3
        | {"rope_parameters": MINISTRAL3_SCALING | {"llama_4_scaling_beta": 0.0, "factor": 8.0}, "hidden_act": "gelu"},
    },
    "seed_oss": {
        "biases, wide heads": LLAMA_LIKE
        | {"model_type": "seed_oss", "head_dim": 6, "attention_dropout": 0.0, "residual_dropout": 0.0},
        "all biases, one key head, yarn": LLAMA_LIKE
        | {
            "model_type": "seed_oss",
            "head_dim": 8,
            "attention_out_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 1,
            "rope_scaling": YARN,
        },
        "no biases, tied, 3 layers": LLAMA_LIKE
        | {
            "model_type": "seed_oss",
            "head_dim": 4,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
            "rms_norm_eps": 1e-4,
        },
    },
    "granitemoe": {
        "multipliers": GRANITE_MOE | {"model_type": "granitemoe"} | MULTIPLIERS,
        "biases, one key head, yarn": GRANITE_MOE
        | {
            "model_type": "granitemoe",
            "attention_bias": True,
            "num_key_value_heads": 1,
            "num_experts_per_tok": 3,
            "rope_scaling": YARN,
        }
        | MULTIPLIERS,
        "tied, unscaled, 3 layers": GRANITE_MOE
        | {
            "model_type": "granitemoe",
            "tie_word_embeddings": True,
            "num_local_experts": 5,
            "num_hidden_layers": 3,
            "rms_norm_eps": 1e-3,
        },
    },
    "granitemoeshared": {
        "multipliers": GRANITE_MOE | {"model_type": "granitemoeshared", "shared_intermediate_size": 14} | MULTIPLIERS,
        "tied, one key head, 3 layers": GRANITE_MOE
        | {
            "model_type": "granitemoeshared",
            "shared_intermediate_size": 6,
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "attention_bias": True,
        }
        | MULTIPLIERS,
        "none shared": GRANITE_MOE | {"model_type": "granitemoeshared", "num_experts_per_tok": 3},
    },
    "internlm2": {
        "two key heads": INTERNLM2
        | {"bias": False, "num_attention_heads": 6, "num_key_value_heads": 2, "rope_theta": 1e6},
        "one key head, biases, linear": INTERNLM2
        | {"num_key_value_heads": 1, "rope_scaling": {"type": "linear", "factor": 4.0}, "rms_norm_eps": 1e-5},
        "tied, 3 layers": INTERNLM2 | {"bias": False, "tie_word_embeddings": True, "num_hidden_layers": 3},
    },
    "baichuan": {
        "7B: rotary": BAICHUAN | {"max_position_embeddings": 128},
        "13B: ALiBi, six heads": BAICHUAN | {"num_attention_heads": 6, "num_hidden_layers": 3},
        "13B: four heads": BAICHUAN | {"num_attention_heads": 4, "hidden_size": 16, "rms_norm_eps": 1e-3},
    },
}
