"""The compared shapes of language models within multimodal models, which are fed with text alone."""

from tests.parity.gemma4_cases import GEMMA4
from tests.parity.llama_like_cases import GEMMA3, QWEN_MOE
from tests.parity.shapes import LLAMA_LIKE, YARN

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
LLAMA_4 = LLAMA_LIKE | {
    "intermediate_size_mlp": 20,
    "num_local_experts": 3,
    "head_dim": 8,
    "attention_chunk_size": 6,
    "no_rope_layer_interval": 2,
    "interleave_moe_layer_step": 2,
}


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
    },
    "multimodal_llama4": {
        "every second sparse, chunks of 6": _whole("llama4", {"model_type": "llama4_text"} | LLAMA_4, LLAMA_4_VISION),
    },
    "multimodal_llava": {
        "LLaMA, one key head": _whole(
            "llava",
            LLAMA_LIKE | {"model_type": "llama", "num_key_value_heads": 1},
            SIGLIP,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        ),
    },
    "multimodal_mistral3": {
        "untied, wide heads": _whole(
            "mistral3",
            LLAMA_LIKE | {"model_type": "mistral", "head_dim": 6, "sliding_window": None},
            PIXTRAL,
            tie_word_embeddings=False,
        ),
    },
    "multimodal_qwen2_vl": {
        "positions of three axes": _whole(
            "qwen2_vl",
            LLAMA_LIKE | {"num_attention_heads": 2, "rope_scaling": {"type": "mrope"} | MROPE},
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
    },
    "multimodal_qwen3_vl": {
        "axes interleaved, tied": _whole(
            "qwen3_vl",
            LLAMA_LIKE | {"head_dim": 8, "rope_scaling": {"rope_type": "default", "mrope_interleaved": True} | MROPE},
            QWEN_3_VISION,
            tie_word_embeddings=True,
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
                "rope_scaling": {"rope_type": "default", "mrope_interleaved": True} | MROPE,
            },
            QWEN_3_VISION,
            tie_word_embeddings=False,
            **IDS,
        ),
    },
}
