"""A small T5 on the bytes of the Python standard library: spans are taken out of the source, and the target is they.

    python -m launch.train --config=configs/span_corruption.py --run=runs/spans
    python -m launch.data show --run=runs/spans --step=1

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5), sections
2.1 and 3.1.4, with the gated feed-forward, the separate unembedding and the missing dropout of version 1.1: relative
position buckets that all layers of a side share, norms without means before sublayers, no biases. Of each row of 142
bytes 21 are hidden, in 7 spans. The vocabulary has 8 ids more than the tokenizer: the sentinels of the spans and of the
end of the target.

Hardware: 2 CPU cores, 6 minutes of processor time. Loss of a token of the target on held-out files, one seed: 2.33,
2.26, 2.23 and 2.18 nats after 250, 500, 750 and 1,000 steps (a guess: ln 265 = 5.58).
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.positions.relative import RelativeBias
from model.vocabulary.embedding import Untied
from train.data.config import Bytes
from train.data.span_corruption.option import SpanCorruption
from train.experiment import Evaluation, Experiment, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import InverseSquareRoot

WIDTH, LAYERS, HEADS, FFN = 128, 2, 4, 344

data = SpanCorruption(path="stdlib", tokenizer=Bytes(), source_length=128, batch_size=32)

experiment = Experiment(
    model=ModelConfig(
        vocab_size=257 + data.own_ids,
        context_length=data.sequence_length,
        num_layers=LAYERS,
        width=WIDTH,
        mixer=GroupedQuery(num_heads=HEADS),
        ffn=Gated(width=FFN, activation="gelu_tanh"),
        position=RelativeBias(shared=True),
        norm=RMSNorm(),
        encoder=Encoder(
            num_layers=LAYERS,
            context_length=data.source_length,
            mixer=GroupedQuery(num_heads=HEADS),
            ffn=Gated(width=FFN, activation="gelu_tanh"),
            position=RelativeBias(bidirectional=True, shared=True),
            cross=CrossAttention(num_heads=HEADS),
            start_token=256,
        ),
        unembedding=Untied(),
    ),
    data=data,
    training=Training(num_steps=1000),
    optimizer=AdamW(weight_decay=0.01),
    schedule=InverseSquareRoot(peak=2e-3, warmup_steps=100),
    evaluation=Evaluation(every=250, max_batches=8),
    samples=Samples(length=28),
)
