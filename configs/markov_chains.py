"""Two layers of attention without feed-forwards learn Markov chains in context: an induction head forms.

    python -m launch.train --config=configs/markov_chains.py --run=runs/markov
    python -m launch.train --config=configs/markov_chains.py --run=runs/markov_one --set model.num_layers=1
    python -m launch.evaluate --run=runs/markov --probes=markov --sequences=2000 --html=markov.html
    python -m launch.inspect markov --run=runs/markov --sequences=256

Edelman et al. 2024, "The Evolution of Statistical Induction Heads: In-Context Learning Markov Chains". Every sequence
has a transition matrix of its own, so a model has to infer it from the sequence. The evaluation `chains` compares it
with three predictors: uniform, frequencies of single states (unigram), and those of pairs, which is the exact Bayes
prediction (bigram).

Hardware: 1 CPU core, 2 minutes (13 beside much other work). Loss in nats on 2,000 sequences of one seed (the standard
error of each is 0.003): uniform 1.0986, unigram 1.0081, bigram 0.8829.

    2 layers   0.8946: 0.0117 above the Bayes loss (standard error 0.0005), 91% of the way from unigram to bigram
    1 layer    0.9944: stays near the unigram loss, as in the paper

With two layers the loss of `chains` is 1.002 at step 100, the unigram plateau (1.001 on its 256 sequences), leaves it
after step 200, and is 0.944 at step 500, 0.902 at step 1,000 and 0.892 at the end (bigram 0.880). With one head a
layer and a constant rate of 5e-3 it is 0.991 until step 900, and then falls to 0.924 by step 2,000.
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
