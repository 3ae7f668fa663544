"""Values that most of the compared shapes share; see tests/parity/cases.py."""

PROMPTS = (6, 9)  # the lengths of the prompts of generated texts, which are one batch
# Model types without a class of their own: the type whose class they use.
CLASSES = {"kimi_k2": "deepseek_v3"}
ENCODERS = ("bert", "modernbert", "roberta")  # families that fill in masked tokens and generate nothing

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
