"""A LLaMA-shaped model of 1.1 billion parameters at sequence 4,096, for one GPU: the config of the speed comparison.

    python -m launch.bench --config=tests/benchmarks/llama_1b.py

Float32 parameters and AdamW moments, bfloat16 compute, no rematerialisation. `references/torch_llama.py` has the same shapes in
`transformers`, and `gpu.py` measures both.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.parameters.precision import Precision
from model.vocabulary.embedding import Untied
from train.data import Bytes, Data
from train.experiment import Experiment, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

SEQUENCE_LENGTH = 4096

experiment = Experiment(
    model=ModelConfig(
        vocab_size=32000,
        context_length=SEQUENCE_LENGTH,
        num_layers=22,
        width=2048,
        mixer=GroupedQuery(num_heads=16, num_kv_heads=4),
        ffn=Gated(width=5632),
        unembedding=Untied(),
        precision=Precision(parameters="float32", compute="bfloat16"),
    ),
    data=Data(
        path="none",
        tokenizer=Bytes(),
        batch_size=4,
        sequence_length=SEQUENCE_LENGTH,
        cross_document_attention=True,  # as the other side, which has no documents
    ),
    training=Training(num_steps=1000),
    optimizer=AdamW(weight_decay=0.1),
    schedule=Cosine(peak=3e-4, final=3e-5, warmup_steps=100),
)
