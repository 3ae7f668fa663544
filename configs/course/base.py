"""The small model from which the lessons of the course start: two layers on half a megabyte of English about Python.

    python -m launch.course next_token
    python -m launch.train --config=configs/course/base.py --run=runs/base

The second command needs the text that the first one has written (train/course/texts.py).
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.norms import RMSNorm
from model.parameters.maker import FanIn
from model.positions.rotary import Rotary
from model.vocabulary.embedding import Untied
from train.data.config import Data, SentencePiece, Tail
from train.experiment import Checkpoints, Evaluation, Experiment, Logging, Samples, Training
from train.optimizers.options import Muon
from train.schedules import WarmupStableDecay

STEPS = 250

text = Data(
    path="runs/course/texts/english.txt",
    tokenizer=SentencePiece(vocab_size=512),
    validation=Tail(fraction=0.1),
    batch_size=16,
    sequence_length=64,
)

experiment = Experiment(
    model=ModelConfig(
        vocab_size=512,
        context_length=128,
        num_layers=2,
        width=64,
        position=Rotary(),
        mixer=GroupedQuery(num_heads=4),
        ffn=MLP(width=256, activation="gelu"),
        norm=RMSNorm(),
        unembedding=Untied(),
        initialization=FanIn(embedding_std=0.02, zero_residual=True),
        scan_layers=False,
    ),
    data=text,
    training=Training(num_steps=STEPS, clip_norm=1.0),
    optimizer=Muon(weight_decay=0.1),
    schedule=WarmupStableDecay(peak=1e-2, warmup_steps=20, decay_steps=175),
    evaluation=Evaluation(every=125, max_batches=16),
    checkpoints=Checkpoints(every=STEPS),
    logging=Logging(tensorboard=False),
    samples=Samples(length=16),
)
