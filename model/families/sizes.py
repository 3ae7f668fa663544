"""Published models by name: the values of their config.json that determine the computation.

    model = published("llama-3.1-8b")

returns the `ModelConfig` of LLaMA 3.1 8B, to train from scratch or to look at; launch.convert reads weights. Values not
named here have the family's defaults. Models without a config.json are in model/families/paper_models.py.
"""

from typing import Any

from model.config import ModelConfig
from model.errors import UserError
from model.families import model_config, paper_models
from model.options.words import nearest

Values = dict[str, Any]


def _llama(width: int, layers: int, heads: int, kv_heads: int, ffn: int, **others: Any) -> Values:
    """The values that the configs of models like LLaMA have in common."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
    } | others


def _gpt2(width: int, layers: int, heads: int, context: int = 1024) -> Values:
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": context}
    return {"model_type": "gpt2", "vocab_size": 50257} | sizes


def _gpt_neo(width: int, layers: int, heads: int) -> Values:
    sizes = {"hidden_size": width, "num_layers": layers, "num_heads": heads}
    return {"model_type": "gpt_neo", "attention_types": [[["global", "local"], layers // 2]]} | sizes


def _pythia(width: int, layers: int, heads: int, vocab_size: int = 50304) -> Values:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    fixed = {"model_type": "gpt_neox", "max_position_embeddings": 2048, "rotary_pct": 0.25, "hidden_act": "gelu"}
    return fixed | sizes | {"intermediate_size": 4 * width, "vocab_size": vocab_size, "tie_word_embeddings": False}


T5 = {"model_type": "t5", "vocab_size": 32128}
LLAMA_2 = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
LLAMA_3_1 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
MISTRAL = {"model_type": "mistral", "vocab_size": 32000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5}
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5}
MIXTRAL |= {"rope_theta": 1e6, "sliding_window": None}
GEMMA_2 = {
    "model_type": "gemma2",
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
GEMMA_3 = {"model_type": "gemma3_text", "rope_theta": 1e6, "head_dim": 256}
GEMMA_3_LONG = GEMMA_3 | {"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
GEMMA_4 = {"model_type": "gemma4_text", "final_logit_softcapping": 30.0}
QWEN_3 = {"model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 40960, "rope_theta": 1e6}
QWEN_3 |= {"head_dim": 128, "tie_word_embeddings": False}
QWEN_3_MOE = QWEN_3 | {
    "model_type": "qwen3_moe",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
DEEPSEEK_V2: Values = {
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "norm_topk_prob": False,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
    },
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "head_dim": 64,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "rope_theta": 150000.0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
OLMO = {"model_type": "olmo", "vocab_size": 50304, "max_position_embeddings": 2048}
KIMI_K2: Values = {
    "model_type": "kimi_k2",
    "vocab_size": 163840,
    "max_position_embeddings": 131072,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 2048,
    "n_group": 1,
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "rope_theta": 50000.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 32.0,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
    },
}
BAICHUAN_2 = {"model_type": "baichuan", "vocab_size": 125696, "model_max_length": 4096, "tie_word_embeddings": False}
INTERNLM_2 = {"model_type": "internlm2", "vocab_size": 92544, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5}
INTERNLM_2 |= {"bias": False, "rope_theta": 1e6, "tie_word_embeddings": False}
OLMO_2 = {"model_type": "olmo2", "vocab_size": 100352, "max_position_embeddings": 4096, "rope_theta": 500000.0}
OLMO_2 |= {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}
PHI = {"model_type": "phi", "vocab_size": 51200, "max_position_embeddings": 2048}
STARCODER = {"model_type": "gpt_bigcode", "vocab_size": 49152, "n_positions": 8192, "activation_function": "gelu"}
STARCODER |= {"n_embd": 6144, "n_layer": 40, "n_head": 48}
STABLELM_2 = {"model_type": "stablelm", "vocab_size": 100352, "max_position_embeddings": 4096, "use_qkv_bias": True}
GRANITE_4_H = {
    "model_type": "granitemoehybrid",
    "vocab_size": 100352,
    "mamba_n_heads": 48,
    "mamba_d_state": 128,
    "embedding_multiplier": 12.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
QWEN_3_NEXT = {"model_type": "qwen3_next", "max_position_embeddings": 262144, "rope_theta": 1e7}
QWEN_3_NEXT |= {"vocab_size": 151936, "head_dim": 256, "moe_intermediate_size": 512}

SIZES: dict[str, Values | ModelConfig] = {
    "gpt1": {"model_type": "openai-gpt"},
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "gpt-neo-125m": _gpt_neo(768, 12, 12),
    "gpt-neo-1.3b": _gpt_neo(2048, 24, 16),
    "gpt-neo-2.7b": _gpt_neo(2560, 32, 20),
    "tinystories-33m": _gpt_neo(768, 4, 16),
    "pythia-70m": _pythia(512, 6, 8),
    "pythia-160m": _pythia(768, 12, 12),
    "pythia-410m": _pythia(1024, 24, 16),
    "pythia-1b": _pythia(2048, 16, 8),
    "pythia-1.4b": _pythia(2048, 24, 16),
    "pythia-2.8b": _pythia(2560, 32, 32),
    "pythia-6.9b": _pythia(4096, 32, 32, vocab_size=50432),
    "pythia-12b": _pythia(5120, 36, 40, vocab_size=50688),
    "llama-2-7b": LLAMA_2 | _llama(4096, 32, 32, 32, 11008),
    "llama-2-13b": LLAMA_2 | _llama(5120, 40, 40, 40, 13824),
    "llama-2-70b": LLAMA_2 | _llama(8192, 80, 64, 8, 28672),
    "llama-3.1-8b": LLAMA_3_1 | _llama(4096, 32, 32, 8, 14336),
    "llama-3.1-70b": LLAMA_3_1 | _llama(8192, 80, 64, 8, 28672),
    "llama-3.1-405b": LLAMA_3_1 | _llama(16384, 126, 128, 8, 53248),
    "mistral-7b": MISTRAL | _llama(4096, 32, 32, 8, 14336, sliding_window=4096),
    "mixtral-8x7b": MIXTRAL | _llama(4096, 32, 32, 8, 14336, vocab_size=32000, max_position_embeddings=32768),
    "mixtral-8x22b": MIXTRAL | _llama(6144, 56, 48, 8, 16384, vocab_size=32000, max_position_embeddings=65536),
    "gemma-2-2b": GEMMA_2 | _llama(2304, 26, 8, 4, 9216, head_dim=256, query_pre_attn_scalar=256),
    "gemma-2-9b": GEMMA_2 | _llama(3584, 42, 16, 8, 14336, head_dim=256, query_pre_attn_scalar=256),
    "gemma-2-27b": GEMMA_2 | _llama(4608, 46, 32, 16, 36864, head_dim=128, query_pre_attn_scalar=144),
    "gemma-3-1b": GEMMA_3
    | _llama(1152, 26, 4, 1, 6912, vocab_size=262144, sliding_window=512, query_pre_attn_scalar=256)
    | {"max_position_embeddings": 32768},
    "gemma-3-4b": GEMMA_3_LONG
    | _llama(2560, 34, 8, 4, 10240, vocab_size=262208, sliding_window=1024, query_pre_attn_scalar=256),
    "gemma-4-31b": GEMMA_4
    | _llama(5376, 60, 32, 16, 21504, vocab_size=262144, sliding_window=1024, hidden_size_per_layer_input=0)
    | {"max_position_embeddings": 262144, "num_global_key_value_heads": 4, "attention_k_eq_v": True},
    "gemma-4-e2b": GEMMA_4
    | _llama(1536, 35, 8, 1, 6144, vocab_size=262144, num_kv_shared_layers=20, use_double_wide_mlp=True)
    | {"max_position_embeddings": 131072, "layer_types": 7 * [*4 * ["sliding_attention"], "full_attention"]},
    "gemma-4-26b-a4b": GEMMA_4
    | _llama(2816, 30, 16, 8, 2112, vocab_size=262144, sliding_window=1024, hidden_size_per_layer_input=0)
    | {"max_position_embeddings": 262144, "num_global_key_value_heads": 2, "attention_k_eq_v": True}
    | {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704},
    "qwen3-0.6b": QWEN_3 | _llama(1024, 28, 16, 8, 3072, tie_word_embeddings=True),
    "qwen3-1.7b": QWEN_3 | _llama(2048, 28, 16, 8, 6144, tie_word_embeddings=True),
    "qwen3-4b": QWEN_3 | _llama(2560, 36, 32, 8, 9728, tie_word_embeddings=True),
    "qwen3-8b": QWEN_3 | _llama(4096, 36, 32, 8, 12288),
    "qwen3-14b": QWEN_3 | _llama(5120, 40, 40, 8, 17408),
    "qwen3-32b": QWEN_3 | _llama(5120, 64, 64, 8, 25600),
    "qwen3-30b-a3b": QWEN_3_MOE | _llama(2048, 48, 32, 4, 6144, moe_intermediate_size=768),
    "qwen3-235b-a22b": QWEN_3_MOE | _llama(4096, 94, 64, 4, 12288, moe_intermediate_size=1536),
    "deepseek-v2-lite": DEEPSEEK_V2
    | _llama(2048, 27, 16, 16, 10944, q_lora_rank=None, n_routed_experts=64, moe_intermediate_size=1408),
    "deepseek-v2": DEEPSEEK_V2
    | _llama(5120, 60, 128, 128, 12288, q_lora_rank=1536, n_routed_experts=160, moe_intermediate_size=1536)
    | {"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3, "routed_scaling_factor": 16.0},
    "deepseek-v3": DEEPSEEK_V2
    | _llama(7168, 61, 128, 128, 18432, q_lora_rank=1536, n_routed_experts=256, moe_intermediate_size=2048)
    | {"model_type": "deepseek_v3", "vocab_size": 129280, "first_k_dense_replace": 3, "n_shared_experts": 1}
    | {"num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "norm_topk_prob": True}
    | {"rope_scaling": DEEPSEEK_V2["rope_scaling"] | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    "grok-1": {"model_type": "grok-1"},
    "gpt-oss-20b": GPT_OSS | _llama(2880, 24, 64, 8, 2880, num_local_experts=32),
    "gpt-oss-120b": GPT_OSS | _llama(2880, 36, 64, 8, 2880, num_local_experts=128),
    "olmo-1b": OLMO | _llama(2048, 16, 16, 16, 8192, tie_word_embeddings=True),
    "olmo-7b": OLMO | _llama(4096, 32, 32, 32, 11008),
    "olmo-2-7b": OLMO_2 | _llama(4096, 32, 32, 32, 11008),
    "olmo-2-13b": OLMO_2 | _llama(5120, 40, 40, 40, 13824),
    "phi-1.5": PHI | _llama(2048, 24, 32, 32, 8192, partial_rotary_factor=0.5),
    "phi-2": PHI | _llama(2560, 32, 32, 32, 10240, partial_rotary_factor=0.4, resid_pdrop=0.1),
    "stablelm-2-1.6b": STABLELM_2 | _llama(2048, 24, 32, 32, 5632),
    "starcoder": STARCODER,
    "codestral-mamba-7b": {"model_type": "mamba2"},
    "baichuan2-7b": BAICHUAN_2 | _llama(4096, 32, 32, 32, 11008, max_position_embeddings=4096),
    "baichuan2-13b": BAICHUAN_2 | _llama(5120, 40, 40, 40, 13696),
    "internlm2-7b": INTERNLM_2 | _llama(4096, 32, 32, 8, 14336),
    "kimi-k2": KIMI_K2 | _llama(7168, 61, 64, 64, 18432),
    "t5-small": T5,
    "t5-base": T5 | {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": T5 | {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "t5-v1_1-base": T5
    | {
        "d_model": 768,
        "num_layers": 12,
        "num_heads": 12,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "granite-4.0-h-350m": GRANITE_4_H
    | _llama(768, 32, 12, 4, 2048, shared_intermediate_size=2048, num_local_experts=0, max_position_embeddings=32768)
    | {"attention_multiplier": 1 / 64, "residual_multiplier": 0.246, "logits_scaling": 3.0}
    | {"layer_types": ["attention" if i in (10, 13, 17, 27) else "mamba" for i in range(32)]},
    "qwen3-next-80b-a3b": QWEN_3_NEXT | _llama(2048, 48, 16, 2, 5120, shared_expert_intermediate_size=512),
} | paper_models.MODELS


def published(name: str) -> ModelConfig:
    """Returns the model of that name. Raises UserError, naming the nearest, when there is none."""
    if name not in SIZES:
        raise UserError(f"no published model is called {name!r}; {nearest(name, SIZES)}")
    model = SIZES[name]
    return model if isinstance(model, ModelConfig) else model_config(model)
