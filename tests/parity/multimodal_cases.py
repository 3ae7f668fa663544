"""The compared shapes of language models within multimodal models, which are fed with text alone."""

from tests.parity.gemma4_cases import EXPERTS, GEMMA4
from tests.parity.llama_like_cases import GEMMA3, QWEN_MOE
from tests.parity.recent_cases import MINISTRAL3, MINISTRAL3_SCALING
from tests.parity.shapes import LLAMA_3_SCALING, LLAMA_LIKE, YARN

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
PIXTRAL = SIGLIP | {"model_type": "pixtral", "head_dim": 4}
GEMMA_4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "patch_size": 14,
    "position_embedding_size": 8,
}
LLAMA_4_VISION = {
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 8,
    "projector_input_dim": 8,
    "projector_output_dim": 8,
}
QWEN_VISION = {"depth": 1, "hidden_size": 8, "num_heads": 2, "in_channels": 3}
QWEN_2_VISION = QWEN_VISION | {"embed_dim": 8, "hidden_size": 16}
QWEN_2_5_VISION = QWEN_VISION | {"intermediate_size": 8, "out_hidden_size": 16, "fullatt_block_indexes": [0]}
QWEN_3_VISION = QWEN_VISION | {"intermediate_size": 8, "out_hidden_size": 16, "deepstack_visual_indexes": [0]}
QWEN_3_VISION |= {"num_position_embeddings": 16}
IDS = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
# Heads of 8, whose 4 pairs of dimensions belong to three axes.
MROPE = {"mrope_section": [2, 1, 1]}
THREE_AXES = {"type": "mrope"} | MROPE
INTERLEAVED = {"rope_type": "default", "mrope_interleaved": True} | MROPE
LLAVA_FEATURES = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
LLAMA_4 = (
    {"model_type": "llama4_text"}
    | LLAMA_LIKE
    | {
        "intermediate_size_mlp": 20,
        "num_local_experts": 3,
        "head_dim": 8,
        "attention_chunk_size": 6,
        "no_rope_layer_interval": 2,
        "interleave_moe_layer_step": 2,
    }
)


def _whole(model_type, text, vision, **others):
    return {"model_type": model_type, "text_config": text, "vision_config": vision} | others


CASES = {
    "multimodal_gemma3": {
        "two local to one global, scaled": _whole(
            "gemma3",
            GEMMA3
            | {
                "layer_types": 2 * [*2 * ["sliding_attention"], "full_attention"],
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            SIGLIP,
            mm_tokens_per_image=1,
        ),
        "one layer, one key head": _whole(
            "gemma3",
            GEMMA3
            | {
                "num_hidden_layers": 1,
                "num_key_value_heads": 1,
                "layer_types": ["sliding_attention"],
                "query_pre_attn_scalar": 20,
            },
            SIGLIP,
            mm_tokens_per_image=1,
        ),
        "untied, biases, wide heads": _whole(
            "gemma3",
            GEMMA3
            | {
                "num_hidden_layers": 3,
                "head_dim": 10,
                "attention_bias": True,
                "sliding_window": 4,
                "tie_word_embeddings": False,
                "layer_types": ["full_attention", *2 * ["sliding_attention"]],
            },
            SIGLIP,
            mm_tokens_per_image=1,
            tie_word_embeddings=False,
        ),
    },
    "multimodal_gemma4": {
        "vectors of layers, shared keys": _whole(
            "gemma4",
            GEMMA4
            | {
                "num_hidden_layers": 4,
                "num_kv_shared_layers": 2,
                "layer_types": 2 * ["sliding_attention", "full_attention"],
                "hidden_size_per_layer_input": 6,
                "vocab_size_per_layer_input": 64,
            },
            GEMMA_4_VISION,
        ),
        "values from keys, one global head": _whole(
            "gemma4",
            GEMMA4
            | {
                "num_hidden_layers": 2,
                "num_global_key_value_heads": 1,
                "layer_types": ["sliding_attention", "full_attention"],
                "final_logit_softcapping": 3.0,
            },
            GEMMA_4_VISION,
        ),
        "experts": _whole(
            "gemma4",
            EXPERTS | {"num_experts": 3, "layer_types": ["sliding_attention", "full_attention"]},
            GEMMA_4_VISION,
        ),
    },
    "multimodal_llama4": {
        "every second sparse, chunks of 6": _whole("llama4", LLAMA_4, LLAMA_4_VISION),
        "all sparse, queries grow": _whole(
            "llama4",
            LLAMA_4
            | {
                "interleave_moe_layer_step": 1,
                "num_key_value_heads": 1,
                "attn_temperature_tuning": True,
                "floor_scale": 5,
                "attn_scale": 0.3,
                "use_qk_norm": False,
            },
            LLAMA_4_VISION,
        ),
        "third of 4 without positions": _whole(
            "llama4",
            LLAMA_4
            | {
                "num_hidden_layers": 4,
                "num_local_experts": 2,
                "no_rope_layer_interval": 3,
                "attention_chunk_size": 7,
                "rope_scaling": LLAMA_3_SCALING,
            },
            LLAMA_4_VISION,
        ),
    },
    "multimodal_llava": {
        "LLaMA, one key head": _whole(
            "llava",
            LLAMA_LIKE | {"model_type": "llama", "num_key_value_heads": 1},
            SIGLIP,
            **LLAVA_FEATURES,
        ),
        "Mistral, window 7": _whole(
            "llava",
            LLAMA_LIKE | {"model_type": "mistral", "head_dim": 6, "sliding_window": 7},
            SIGLIP,
            **LLAVA_FEATURES,
        ),
        "Qwen 2, tied, 3 layers": _whole(
            "llava",
            LLAMA_LIKE | {"model_type": "qwen2", "num_hidden_layers": 3, "tie_word_embeddings": True},
            SIGLIP,
            **LLAVA_FEATURES,
            tie_word_embeddings=True,
        ),
    },
    "multimodal_mistral3": {
        "untied, wide heads": _whole(
            "mistral3",
            LLAMA_LIKE | {"model_type": "mistral", "head_dim": 6, "sliding_window": None},
            PIXTRAL,
            tie_word_embeddings=False,
        ),
        "tied, window 5, one key head": _whole(
            "mistral3",
            LLAMA_LIKE
            | {
                "model_type": "mistral",
                "num_key_value_heads": 1,
                "sliding_window": 5,
                "head_dim": 4,
                "tie_word_embeddings": True,
            },
            PIXTRAL,
            tie_word_embeddings=True,
        ),
        "Ministral 3, queries grow, yarn": _whole(
            "mistral3",
            MINISTRAL3 | {"rope_parameters": MINISTRAL3_SCALING},
            PIXTRAL,
            tie_word_embeddings=False,
        ),
    },
    "multimodal_qwen2_vl": {
        "positions of three axes": _whole(
            "qwen2_vl",
            LLAMA_LIKE | {"num_attention_heads": 2, "rope_scaling": THREE_AXES},
            QWEN_2_VISION,
            **IDS,
        ),
        "tied, one key head, 3 layers": _whole(
            "qwen2_vl",
            LLAMA_LIKE
            | {
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_hidden_layers": 3,
                "rope_theta": 1e4,
                "rope_scaling": THREE_AXES,
            },
            QWEN_2_VISION,
            tie_word_embeddings=True,
            **IDS,
        ),
        "windows from the second of 4": _whole(
            "qwen2_vl",
            LLAMA_LIKE
            | {
                "num_attention_heads": 2,
                "num_hidden_layers": 4,
                "use_sliding_window": True,
                "sliding_window": 6,
                "max_window_layers": 1,
                "rope_scaling": THREE_AXES,
            },
            QWEN_2_VISION,
            **IDS,
        ),
    },
    "multimodal_qwen2_5_vl": {
        "positions of three axes, yarn, tied": _whole(
            "qwen2_5_vl",
            LLAMA_LIKE
            | {"num_attention_heads": 2, "num_key_value_heads": 1, "rope_scaling": YARN | MROPE, "rms_norm_eps": 1e-6},
            QWEN_2_5_VISION,
            tie_word_embeddings=True,
            **IDS,
        ),
        "untied, as many key heads, wide": _whole(
            "qwen2_5_vl",
            LLAMA_LIKE
            | {
                "num_attention_heads": 2,
                "intermediate_size": 44,
                "rope_scaling": {"rope_type": "default", "type": "default"} | MROPE,
            },
            QWEN_2_5_VISION,
            tie_word_embeddings=False,
            **IDS,
        ),
        "windows in the last of 3": _whole(
            "qwen2_5_vl",
            LLAMA_LIKE
            | {
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_hidden_layers": 3,
                "use_sliding_window": True,
                "sliding_window": 5,
                "max_window_layers": 2,
                "rope_scaling": THREE_AXES,
            },
            QWEN_2_5_VISION,
            **IDS,
        ),
    },
    "multimodal_qwen3_vl": {
        "axes interleaved, tied": _whole(
            "qwen3_vl",
            LLAMA_LIKE | {"head_dim": 8, "rope_scaling": INTERLEAVED},
            QWEN_3_VISION,
            tie_word_embeddings=True,
            **IDS,
        ),
        "untied, biases, one key head": _whole(
            "qwen3_vl",
            LLAMA_LIKE
            | {
                "head_dim": 8,
                "attention_bias": True,
                "num_key_value_heads": 1,
                "rope_scaling": INTERLEAVED,
            },
            QWEN_3_VISION,
            tie_word_embeddings=False,
            **IDS,
        ),
        "wide heads, 3 layers, yarn": _whole(
            "qwen3_vl",
            LLAMA_LIKE
            | {
                "head_dim": 16,
                "num_hidden_layers": 3,
                "rope_theta": 1e4,
                "rope_scaling": YARN | {"mrope_interleaved": True, "mrope_section": [4, 2, 2]},
            },
            QWEN_3_VISION,
            tie_word_embeddings=False,
            **IDS,
        ),
    },
    "multimodal_qwen3_vl_moe": {
        "axes interleaved, first layer dense": _whole(
            "qwen3_vl_moe",
            QWEN_MOE
            | {
                "head_dim": 8,
                "mlp_only_layers": [0],
                "rope_scaling": INTERLEAVED,
            },
            QWEN_3_VISION,
            tie_word_embeddings=False,
            **IDS,
        ),
        "all sparse, one chosen, tied": _whole(
            "qwen3_vl_moe",
            QWEN_MOE
            | {
                "head_dim": 8,
                "num_experts": 3,
                "num_experts_per_tok": 1,
                "num_key_value_heads": 1,
                "rope_scaling": INTERLEAVED,
            },
            QWEN_3_VISION,
            tie_word_embeddings=True,
            **IDS,
        ),
        "second and fourth sparse, biases": _whole(
            "qwen3_vl_moe",
            QWEN_MOE
            | {
                "head_dim": 8,
                "num_hidden_layers": 4,
                "decoder_sparse_step": 2,
                "attention_bias": True,
                "rope_scaling": INTERLEAVED,
            },
            QWEN_3_VISION,
            tie_word_embeddings=False,
            **IDS,
        ),
    },
}
