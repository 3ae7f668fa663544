"""nanoGPT's character-level experiment on a CPU, with the same settings except for the choice of windows (see below).

    python -m launch.train --config=configs/shakespeare_char.py --run=runs/shakespeare \
        --set data.path=tinyshakespeare.txt

Hardware: 2 CPU cores, 2 minutes. Validation loss over seeds: see "Measured" in README.md. Layers are unrolled
instead of scanned, which is faster on a CPU (tests/benchmarks/README.md).

nanoGPT draws windows of the text at random, with replacement. Here every epoch cuts the text again, at another random
offset, and visits each window once, so that batch n is a function of (data, seed, n).
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.parameters.maker import Normal
from model.positions.absolute import Learned
from model.vocabulary.embedding import Tied
from train.data.config import Characters, Concatenate, Data, Tail
from train.experiment import Checkpoints, Evaluation, Experiment, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

experiment = Experiment(
    model=ModelConfig(
        vocab_size=65,
        context_length=64,
        num_layers=4,
        width=128,
        position=Learned(),
        mixer=GroupedQuery(num_heads=4),
        ffn=MLP(width=512, activation="gelu"),
        norm=LayerNorm(bias=False),
        unembedding=Tied(),
        initialization=Normal(std=0.02, scale_residual=True),
        scan_layers=False,
    ),
    data=Data(
        path="data/tinyshakespeare.txt",
        tokenizer=Characters(),
        validation=Tail(fraction=0.1),
        packing=Concatenate(order="files", random_offset=True),
        batch_size=12,
        sequence_length=64,
        cross_document_attention=True,
    ),
    training=Training(num_steps=2000, clip_norm=1.0),
    optimizer=AdamW(b1=0.9, b2=0.99, weight_decay=0.1),
    schedule=Cosine(peak=1e-3, final=1e-4, warmup_steps=100),
    evaluation=Evaluation(every=250),
    checkpoints=Checkpoints(every=1000),
    samples=Samples(prompts=("\n",), length=63),
)
