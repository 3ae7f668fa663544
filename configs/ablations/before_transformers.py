"""Sequence to sequence before the Transformer: recurrences and additive attention, to write words backwards.

    python -m configs.transformer_2017 pairs.jsonl
    python -m launch.sweep --config=configs/ablations/before_transformers.py --run=runs/before_transformers

From the Transformer of 2017 (configs/transformer_2017.py) to the model of Bahdanau, Cho, Bengio 2015, "Neural Machine
Translation by Jointly Learning to Align and Translate": gated recurrent units in place of self-attention on both sides
(`recurrent`), the scores of a small network in place of products (`additive`), and both (`bahdanau`); `one_way` is the
last one with an encoder that reads its source forwards alone. Layers, width, feed-forwards, norms and residual
stream are those of the Transformer, so that the recurrences are all that differs; the two directions of the encoder
have as many units together as the single one. Recurrences need no positions.

Hardware: 2 CPU cores, 5 min of one of them for 15 runs. Loss of the words that are held out, nats a character, mean of
seeds 0, 1, 2 after 100, 200 and 300 steps, and the difference at the end with its 95% interval:

    transformer   1.23   0.61   0.347
    additive      1.43   0.71   0.259   -0.088 (-0.239 to 0.063), not shown
    recurrent     0.30   0.16   0.123   -0.224 (-0.388 to -0.059), not shown: p = 0.056
    bahdanau      0.48   0.15   0.089   -0.257 (-0.292 to -0.223), better, p = 0.0039
    one_way       0.94   0.24   0.110   -0.236 (-0.281 to -0.192), better, p = 0.0057

On texts of at most 11 characters recurrences with attention learn in a third of the steps, at the rate that was chosen
for the Transformer; how the scores are made matters little; reading the source both ways helps early. What recurrences
pay is elsewhere: they step through a text token by token, and what lies 32 tokens back moves them a thousandth as much
as the last token ("Other mixers" in tests/benchmarks/README.md has both measured).
"""

import dataclasses

from configs.transformer_2017 import HEADS, WIDTH, experiment
from model.encoder.additive import AdditiveAttention
from model.encoder.both_ways import BothWays
from model.encoder.cross import CrossAttention
from model.positions.absolute import NoPositions
from model.recurrent.gru import GRU
from train.experiment import Evaluation, Samples
from train.lab.ablation import Ablation

base = dataclasses.replace(
    experiment,
    training=dataclasses.replace(experiment.training, num_steps=300),
    evaluation=Evaluation(every=100, max_batches=4),
    samples=Samples(length=10),
)


def recurrent(encoder: BothWays | GRU, cross: CrossAttention | AdditiveAttention) -> dict[str, object]:
    """The changes from self-attention to recurrences, with this attention to the source."""
    return {
        "model.mixer": GRU(),
        "model.position": NoPositions(),
        "model.encoder.mixer": encoder,
        "model.encoder.position": NoPositions(),
        "model.encoder.cross": cross,
    }


both_ways, forwards = BothWays(mixer=GRU(head_dim=WIDTH // 2)), GRU()
ablation = Ablation(
    base=base,
    base_name="transformer",
    variants={
        "additive": {"model.encoder.cross": AdditiveAttention()},
        "recurrent": recurrent(both_ways, CrossAttention(num_heads=HEADS)),
        "bahdanau": recurrent(both_ways, AdditiveAttention()),
        "one_way": recurrent(forwards, AdditiveAttention()),
    },
)
