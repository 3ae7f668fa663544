"""The quickstart: a small modern decoder, trained on the sources of Python's standard library.

    make quickstart
    python -m launch.quickstart --config=configs/quickstart.py

Hardware: 2 CPU cores, 8 minutes. Reaches 1.473 bits per byte of the held-out files; see "Measured" in README.md.
"""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.parameters.maker import FanIn
from model.positions.rotary import Rotary
from model.vocabulary.embedding import Tied
from train.data.config import Concatenate, Data, HeldOutDocuments, SentencePiece
from train.experiment import Checkpoints, Evaluation, Experiment, Samples, Training
from train.optimizers.options import Muon
from train.schedules import WarmupStableDecay

experiment = Experiment(
    model=ModelConfig(
        vocab_size=4096,
        context_length=512,
        num_layers=4,
        width=192,
        position=Rotary(theta=10_000.0),
        mixer=GroupedQuery(num_heads=3, num_kv_heads=1, qk_norm=QKNorm()),
        ffn=Gated(width=512, activation="silu"),
        norm=RMSNorm(),
        unembedding=Tied(),
        initialization=FanIn(embedding_std=0.02, zero_residual=True),
        scan_layers=False,
    ),
    data=Data(
        path="stdlib",
        tokenizer=SentencePiece(vocab_size=4096),
        validation=HeldOutDocuments(fraction=0.08, keep_generated=False),
        packing=Concatenate(order="shuffled", random_offset=True),
        batch_size=8,
        sequence_length=256,
    ),
    training=Training(num_steps=1200, clip_norm=1.0),
    optimizer=Muon(weight_decay=0.1),
    schedule=WarmupStableDecay(peak=6e-3, final=0.0, warmup_steps=20, decay_steps=850),
    evaluation=Evaluation(every=400),
    checkpoints=Checkpoints(every=400),
    samples=Samples(prompts=('"""',), length=128),
)
