"""The compared shapes of BERT, RoBERTa, ModernBERT, T5, BART, GPT-Neo, GPT-BigCode, Cohere 1, Phi-1 to 2 and StableLM.

And of the first files of Phi and StableLM.
"""

from tests.parity.shapes import LLAMA_LIKE, SMALL, YARN

BERT = SMALL | {"model_type": "bert", "num_attention_heads": 4, "intermediate_size": 24}
ROBERTA = BERT | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
MODERNBERT = BERT | {"model_type": "modernbert", "num_hidden_layers": 4, "local_attention": 8}
FULL, LOCAL = "full_attention", "sliding_attention"

GPT_NEO = {"model_type": "gpt_neo", "vocab_size": 64, "hidden_size": 16, "max_position_embeddings": 128}
GPT_NEO |= {"num_heads": 4, "window_size": 6}
GPT_BIGCODE = {
    "model_type": "gpt_bigcode",
    "vocab_size": 64,
    "n_positions": 128,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
}
COHERE = LLAMA_LIKE | {"model_type": "cohere"}
PHI = LLAMA_LIKE | {"model_type": "phi", "hidden_size": 32}
PHI_MSFT = {"model_type": "phi-msft", "vocab_size": 64, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}
STABLELM = LLAMA_LIKE | {"model_type": "stablelm", "hidden_size": 32}
STABLELM_EPOCH = STABLELM | {"model_type": "stablelm_epoch"}

T5 = {"model_type": "t5", "vocab_size": 64, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

BART = {"model_type": "bart", "vocab_size": 64, "d_model": 16, "max_position_embeddings": 128}
BART |= {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 24}
BART |= {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 24}

CASES = {
    "bert": {
        "two types, four heads": BERT,
        "tanh gelu, one head, 3 layers": BERT
        | {"hidden_act": "gelu_new", "num_attention_heads": 1, "num_hidden_layers": 3, "layer_norm_eps": 1e-3},
        "relu, five types, wide": BERT | {"hidden_act": "relu", "type_vocab_size": 5, "intermediate_size": 50},
    },
    "roberta": {
        "one type, padding 1": ROBERTA,
        "padding 4, relu, 3 layers": ROBERTA | {"pad_token_id": 4, "hidden_act": "relu", "num_hidden_layers": 3},
        "padding 0, two types, one head": ROBERTA
        | {"pad_token_id": 0, "type_vocab_size": 2, "num_attention_heads": 1, "layer_norm_eps": 1e-3},
    },
    "modernbert": {
        "windows of 4 on each side": MODERNBERT,
        "all biases, untied, every second": MODERNBERT
        | {
            "layer_types": [FULL, LOCAL, FULL, LOCAL, FULL],
            "num_hidden_layers": 5,
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "classifier_bias": True,
            "tie_word_embeddings": False,
            "hidden_activation": "silu",
        },
        "first local, yarn, no bias of logits": MODERNBERT
        | {
            "layer_types": [LOCAL, LOCAL, FULL],
            "num_hidden_layers": 3,
            "local_attention": 5,
            "decoder_bias": False,
            "classifier_activation": "relu",
            "rope_parameters": {
                FULL: YARN | {"rope_theta": 500.0},
                LOCAL: {"rope_type": "default", "rope_theta": 100.0},
            },
            "norm_eps": 1e-3,
        },
    },
    "gpt_neo": {
        "every second with a window": GPT_NEO | {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
        "windows of 3, untied, one head": GPT_NEO
        | {
            "num_layers": 2,
            "attention_types": [[["local"], 2]],
            "window_size": 3,
            "num_heads": 1,
            "tie_word_embeddings": False,
            "activation_function": "relu",
        },
        "one of 3 with a window, wider": GPT_NEO
        | {
            "num_layers": 3,
            "attention_types": [[["global"], 2], [["local"], 1]],
            "intermediate_size": 20,
            "layer_norm_epsilon": 1e-3,
        },
    },
    "gpt_bigcode": {
        "one key head": GPT_BIGCODE,
        "four key heads, untied, exact gelu": GPT_BIGCODE
        | {"multi_query": False, "tie_word_embeddings": False, "activation_function": "gelu"},
        "unscaled, 3 layers, other width": GPT_BIGCODE
        | {"scale_attn_weights": False, "n_layer": 3, "n_inner": 20, "layer_norm_epsilon": 1e-3},
    },
    "cohere": {
        "all heads have keys": COHERE | {"num_key_value_heads": 4, "logit_scale": 0.3},
        "norms on queries and keys, untied": COHERE
        | {"use_qk_norm": True, "tie_word_embeddings": False, "attention_bias": True},
        "norms, one key head, yarn, deeper": COHERE
        | {
            "use_qk_norm": True,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "rope_scaling": YARN,
            "layer_norm_eps": 1e-3,
        },
    },
    "phi": {
        "half of each head turns": PHI,
        "norms on queries, one key head": PHI
        | {"qk_layernorm": True, "num_key_value_heads": 1, "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-3},
        "linear, all turned, 3 layers": PHI
        | {
            "partial_rotary_factor": 1.0,
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "hidden_act": "relu",
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    },
    "phi_msft": {
        "half of each head turns": PHI_MSFT | {"rotary_dim": 4},
        "one key head, words padded to 64": PHI_MSFT | {"rotary_dim": 2, "n_head_kv": 1, "vocab_size": 60},
        "other width, all turned": PHI_MSFT
        | {"rotary_dim": 8, "n_inner": 40, "n_layer": 3, "layer_norm_epsilon": 1e-3},
    },
    "stablelm": {
        "a quarter turned": STABLELM,
        "parallel, norm a head, biases": STABLELM
        | {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True, "partial_rotary_factor": 0.5},
        "norm a head, one key head, tied": STABLELM
        | {
            "qk_layernorm": True,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "layer_norm_eps": 1e-3,
        },
    },
    "stablelm_epoch": {
        "a quarter turned, biases": STABLELM_EPOCH | {"rope_pct": 0.25, "norm_eps": 1e-3, "use_qkv_bias": True},
        "half turned, one key head, tied": STABLELM_EPOCH
        | {"rope_pct": 0.5, "num_key_value_heads": 1, "tie_word_embeddings": True, "rope_theta": 500.0},
        "all turned, 3 layers": STABLELM_EPOCH | {"rope_pct": 1.0, "num_hidden_layers": 3, "num_key_value_heads": 4},
    },
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
