"""Positions: rotary, learned, or none, at the length of training and at twice that length.

    python -m launch.course positions
    python -m launch.sweep --config=configs/course/positions.py --run=runs/positions

The second command needs the text that the first one writes into runs/course/texts.
"""

import dataclasses

from configs.course.base import STEPS
from configs.course.base import experiment as base
from train.course.lesson import ENGLISH, Lesson, Number, Sweep
from train.course.numbers import Final, Less
from train.evaluation.named_evaluations import NamedEvaluation
from train.lab.ablation import Ablation

ablation = Ablation(
    base=dataclasses.replace(
        base, evaluations=(NamedEvaluation(name="twice", sequence_length=128, every=STEPS, max_batches=16),)
    ),
    base_name="rotary",
    variants={"learned": "model.position=Learned()", "none": "model.position=NoPositions()"},
    seeds=(0, 1),
)

ROTARY, LEARNED, NONE = "sweep/rotary-seed*", "sweep/learned-seed*", "sweep/none-seed*"

lesson = Lesson(
    title="Positions",
    question="How does a model know the order of its tokens?",
    words=(
        "Attention is a weighted sum, and a sum has no order. What a token sees of the order of the tokens before it "
        "has to be put in: as a trained vector for each position (learned), or by turning queries and keys by an angle "
        "that grows with the position (rotary), so that their product depends on the distance.",
        "Without either the causal mask alone is left: a token sees those before it, as a set.",
    ),
    parts=(
        Sweep(
            settings=(ENGLISH,),
            joint=2,
            note="Three kinds, two seeds each; training windows have 64 tokens. Look at the difference to rotary and "
            "its interval over seeds. The report of the sweep also has the loss in windows of 128 tokens.",
        ),
    ),
    numbers=(
        Number("loss without positions less that with rotary, nats", Less(Final(NONE), Final(ROTARY)), 0.209),
        Number("loss with learned positions less that with rotary, nats", Less(Final(LEARNED), Final(ROTARY)), 0.213),
        Number(
            "rotary at twice the length of training, less at that length",
            Less(Final(ROTARY, "twice/loss"), Final(ROTARY)),
            -0.005,
        ),
        Number(
            "learned at twice the length of training, less at that length",
            Less(Final(LEARNED, "twice/loss"), Final(LEARNED)),
            0.019,
        ),
        Number(
            "no positions at twice the length, less at that length", Less(Final(NONE, "twice/loss"), Final(NONE)), 0.007
        ),
    ),
    answer=(
        "Without positions the loss is 0.209 higher than with rotary ones, 95% interval 0.129 to 0.289 over two seeds; "
        "with learned ones it is 0.213 higher, 0.199 to 0.228. That learned vectors are worth nothing here may be a "
        "matter of time: rotary positions are there from the first step, and a table has to be learned. Longer runs "
        "would tell.",
        "In windows of 128 tokens rotary loses nothing (-0.005), and learned positions 0.019: the rows from 64 on were "
        "never trained. Windows of that length give tokens more context, so even a model that ignored the new "
        "positions would gain a little. `configs/ablations/positions.py` asks the same of longer runs.",
    ),
    time="56 s on one core",
)
