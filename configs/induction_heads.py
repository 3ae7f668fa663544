"""Copying from earlier in the context: two layers of attention learn it in a phase change, one layer does not.

    python -m launch.train --config=configs/induction_heads.py --run=runs/induction
    python -m launch.train --config=configs/induction_heads.py --run=runs/induction_one --set model.num_layers=1
    python -m launch.inspect heads --run=runs/induction
    python -m launch.report --run=runs/induction

Olsson et al. 2022, "In-context Learning and Induction Heads", claim 1 and argument 1, on random symbols that repeat
with a period of their own in every sequence. Attention alone, without feed-forwards. The evaluation `heads` measures
the score of the best head of each role on repeated random tokens, and the loss of the 60th symbol less that of the 8th.

Hardware: 2 CPU cores beside much other work, 17 minutes. One run each, seed 0. A uniform guess has 3.47 nats.

    2 layers   a plateau at 3.0 until step 700, then the phase change: 2.4 at step 1,000, 0.4 at 1,200, 0.06 at the end
    1 layer    2.84: no phase change

The heads copy at another distance than those of the paper. Their score, the weight on the token right after the earlier
occurrence, stays at 0.01; the weight on the token 6 after it is 0.83 (`copying` of the instrument, half of 31 tokens).
The first layer's heads attend 5 and 6 tokens back. What is 6 back is the key by which the second layer finds a token,
and what is 5 back comes next: without the first layer's weights at distance 6 the second layer's weight falls from 0.82
to 0.02, and without those at distance 5 it is 0.95, while both raise the loss of the repetition from 0.06 to above 6.
Without distance 1, 4 or 7 nothing changes (0.06 to 0.07), and with 5 and 6 alone neither. Periods of 8 and more allow
this.
"""

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.positions.rotary import Rotary
from train.data.generated import Generated
from train.evaluation.named_evaluations import InductionEvaluation
from train.evaluation.probes.induction import Induction
from train.experiment import Checkpoints, Evaluation, Experiment, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

task = Induction(num_symbols_drawn=32, length=63, shortest=8)

experiment = Experiment(
    model=ModelConfig(
        vocab_size=task.num_symbols,
        context_length=task.length,
        num_layers=2,
        width=64,
        mixer=GroupedQuery(num_heads=2),
        ffn=None,
        position=Rotary(theta=100.0),
        scan_layers=False,
    ),
    data=Generated(task=task, batch_size=32),
    training=Training(num_steps=1500),
    optimizer=AdamW(weight_decay=0.0),
    schedule=Cosine(peak=3e-3, final=1e-4, warmup_steps=50),
    evaluation=Evaluation(every=250),
    evaluations=(InductionEvaluation(name="heads", every=50, late=60, early=8),),
    checkpoints=Checkpoints(every=500),
    samples=Samples(length=30),
)
