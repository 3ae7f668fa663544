"""draft

python -m launch.train --config=configs/markov_chains.py --run=runs/markov
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.positions.rotary import Rotary
from train.data.generated import Generated
from train.evaluation.named_evaluations import ProbeEvaluation
from train.evaluation.probes.markov import MarkovChains
from train.experiment import Checkpoints, Evaluation, Experiment, Logging, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import Constant

task = MarkovChains(num_states=3, length=100)

experiment = Experiment(
    model=ModelConfig(
        vocab_size=task.num_symbols,
        context_length=task.length,
        num_layers=2,
        width=64,
        mixer=GroupedQuery(num_heads=1),
        ffn=None,
        position=Rotary(),
        scan_layers=False,
    ),
    data=Generated(task=task, batch_size=64),
    training=Training(num_steps=3000),
    optimizer=AdamW(weight_decay=0.0),
    schedule=Constant(peak=1e-3),
    evaluation=Evaluation(every=500),
    evaluations=(ProbeEvaluation(name="chains", probe=task, every=100, num_sequences=256),),
    checkpoints=Checkpoints(every=1000),
    samples=Samples(length=20),
    logging=Logging(every=10),
)
