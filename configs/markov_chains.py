"""An attention-only model learns Markov chains in context: plateaus at known losses.

    python -m launch.train --config=configs/markov_chains.py --run=runs/markov
    python -m launch.train --config=configs/markov_chains.py --run=runs/markov_one --set model.num_layers=1
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.positions.rotary import Rotary
from train.data.generated import Generated
from train.evaluation.named_evaluations import ProbeEvaluation
from train.evaluation.probes.markov import MarkovChains
from train.experiment import Checkpoints, Evaluation, Experiment, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

task = MarkovChains(num_states=3, length=100)

experiment = Experiment(
    model=ModelConfig(
        vocab_size=task.num_symbols,
        context_length=task.length,
        num_layers=2,
        width=32,
        mixer=GroupedQuery(num_heads=2),
        ffn=None,
        position=Rotary(theta=100.0),
        scan_layers=False,
    ),
    data=Generated(task=task, batch_size=64),
    training=Training(num_steps=2500),
    optimizer=AdamW(weight_decay=0.0),
    schedule=Cosine(peak=5e-3, final=2e-4, warmup_steps=50),
    evaluation=Evaluation(every=500),
    evaluations=(ProbeEvaluation(name="chains", probe=task, every=100, num_sequences=256),),
    checkpoints=Checkpoints(every=500),
    samples=Samples(length=50),
)
