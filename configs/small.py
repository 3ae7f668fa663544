"""A small decoder on the sources of Python's standard library: the base of the ablations in configs/ablations.

    python -m launch.train --config=configs/small.py --run=runs/small

Hardware: 2 CPU cores, a minute or two. Small enough for thirty runs in half an hour, and large enough that a mechanism
that matters shows: 4 layers of width 128, and 614,400 tokens.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.parameters.maker import FanIn
from model.positions.rotary import Rotary
from model.vocabulary.embedding import Tied
from train.data.config import Concatenate, Data, HeldOutDocuments, SentencePiece
from train.experiment import Checkpoints, Evaluation, Experiment, Training
from train.optimizers.options import Muon
from train.schedules import WarmupStableDecay

experiment = Experiment(
    model=ModelConfig(
        vocab_size=2048,
        context_length=512,
        num_layers=4,
        width=128,
        position=Rotary(),
        mixer=GroupedQuery(num_heads=4),
        ffn=Gated(width=336, activation="silu"),
        norm=RMSNorm(),
        unembedding=Tied(),
        initialization=FanIn(embedding_std=0.02, zero_residual=True),
        scan_layers=False,
    ),
    data=Data(
        path="stdlib",
        tokenizer=SentencePiece(vocab_size=2048),
        validation=HeldOutDocuments(fraction=0.08, keep_generated=False),
        packing=Concatenate(order="shuffled", random_offset=True),
        batch_size=16,
        sequence_length=128,
    ),
    training=Training(num_steps=300, clip_norm=1.0),
    optimizer=Muon(weight_decay=0.1),
    schedule=WarmupStableDecay(peak=1e-2, warmup_steps=20, decay_steps=210),
    evaluation=Evaluation(every=100, max_batches=100),
    checkpoints=Checkpoints(every=300),
)
