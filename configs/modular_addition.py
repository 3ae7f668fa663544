"""Grokking: one layer learns the training pairs of (a + b) mod 37 by heart, and much later all pairs.

    python -m launch.train --config=configs/modular_addition.py --run=runs/modular
    python -m launch.inspect fourier --run=runs/modular

Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability", with a smaller modulus, batches
that are drawn from the training pairs, and the norms of a usual model.

Hardware: 2 CPU cores beside much other work, 2,000 to 2,500 tokens/s, 20 minutes. One run, seed 0. The loss of the
training pairs is below 0.05 nats at step 300, where that of the others is 0.92; it rises to 1.33 at step 700 while the
first falls to 0.0004, is 0.26 at step 1,000, has spikes up to 2.0 (step 1,500), and is 0.0003 at step 4,000.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.positions.absolute import Learned
from train.data.generated import Generated
from train.evaluation.probes.modular import ModularAddition
from train.experiment import Checkpoints, Evaluation, Experiment, Logging, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import Constant

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
    schedule=Constant(peak=1e-3, warmup_steps=10),
    evaluation=Evaluation(every=100),
    checkpoints=Checkpoints(every=1000, keep_every=1000),
    samples=Samples(length=2),
    logging=Logging(every=100),
)
