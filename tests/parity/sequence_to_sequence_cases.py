"""The compared shapes of families with an encoder and a decoder. Sources are the targets backwards."""

T5 = {"model_type": "t5", "vocab_size": 64, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

BART = {"model_type": "bart", "vocab_size": 64, "d_model": 16, "max_position_embeddings": 128}
BART |= {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 24}
BART |= {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 24}

CASES = {
    "bart": {
        "as published": BART,
        "scaled embeddings, deeper encoder": BART | {"scale_embedding": True, "encoder_layers": 3, "decoder_layers": 1},
        "sides differ, relu": BART
        | {
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 20,
            "decoder_layers": 3,
            "decoder_attention_heads": 8,
            "activation_function": "relu",
        },
    },
    "t5": {
        "1.0": T5,
        "1.1, deeper decoder": T5 | V1_1 | {"num_decoder_layers": 3, "layer_norm_epsilon": 1e-3},
        "1.1, one layer each, one head": T5 | V1_1 | {"num_layers": 1, "num_heads": 1},
        "1.0, exact gelu, deeper encoder": T5 | {"num_layers": 3, "num_decoder_layers": 1, "feed_forward_proj": "gelu"},
    },
}
