"""The compared shapes of BERT, RoBERTa and ModernBERT."""

from tests.parity.shapes import SMALL, YARN

BERT = SMALL | {"model_type": "bert", "num_attention_heads": 4, "intermediate_size": 24}
ROBERTA = BERT | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
MODERNBERT = BERT | {"model_type": "modernbert", "num_hidden_layers": 4, "local_attention": 8}
FULL, LOCAL = "full_attention", "sliding_attention"

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
}
