"""Grokking: one layer learns the training pairs of (a + b) mod 37 by heart, and much later all pairs.

    python -m launch.train --config=configs/modular_addition.py --run=runs/modular
    python -m launch.inspect fourier --run=runs/modular

Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability", with a smaller modulus, batches
that are drawn from the training pairs, and the norms of a usual model.

Hardware: 1 CPU core, 25,000 tokens/s, 1 minute a run (2,000 tokens/s beside much other work). With seed 0 the loss of
the training pairs is below 0.05 nats at step 300, where that of the others is 0.92; it rises to 1.33 at step 700 while
the first falls to 0.0004, and has spikes up to 2.0 (step 1,500). The rate falls over the last 1,000 steps, so that no
run ends at a spike: with a constant one seed 0 ended at 0.12. Three seeds, and what `fourier` finds:

    seed    others' loss below 0.05    at the end    accuracy on others    key frequencies          of the logits
    0       step 1,700                 0.00004       100%                  18 10 12 14 3 11         88.8%
    1       step 2,200                 0.00003       100%                  6 18 1 10 3 14 11        94.5%
    2       step 3,000                 0.00030       100%                  3 17 7 8 1 6 12 15 18    90.0%

The last column is the share of the logits' variance that waves of these frequencies in a + b - c have. So logits are
sums of few waves, as in the paper (section 4.2; five frequencies of 56 there), but of more of the possible ones: 6 to 9
of 18.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.positions.absolute import Learned
from train.data.generated import Generated
from train.evaluation.probes.modular import ModularAddition
from train.experiment import Checkpoints, Evaluation, Experiment, Logging, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import WarmupStableDecay

task = ModularAddition(modulus=37, share=0.5)

experiment = Experiment(
    model=ModelConfig(
        vocab_size=task.num_symbols,
        context_length=task.length,
        num_layers=1,
        width=64,
        mixer=GroupedQuery(num_heads=4),
        ffn=MLP(width=256, activation="relu"),
        position=Learned(),
        scan_layers=False,
    ),
    data=Generated(task=task, batch_size=256, validation_batches=4),
    training=Training(num_steps=4000),
    optimizer=AdamW(weight_decay=1.0, b2=0.98),
    schedule=WarmupStableDecay(peak=1e-3, warmup_steps=10, decay_steps=1000),
    evaluation=Evaluation(every=100),
    checkpoints=Checkpoints(every=1000, keep_every=1000),
    samples=Samples(length=2),
    logging=Logging(every=100),
)
