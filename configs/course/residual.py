"""Residual stream and norms: eight layers with the norm before a sublayer, after the sum, or on both sides.

    python -m launch.course residual
    python -m launch.sweep --config=configs/course/residual.py --run=runs/residual

The second command needs the text that the first one writes into runs/course/texts.
"""

import dataclasses

from configs.course.base import experiment as base
from train.course.lesson import ENGLISH, Lesson, Look, Number, Sweep
from train.course.numbers import Final, Found, Less
from train.lab.ablation import Ablation

ablation = Ablation(
    base=dataclasses.replace(base, model=dataclasses.replace(base.model, num_layers=8, scan_layers=True)),
    base_name="pre",
    variants={"post": "model.residual=PostNorm()", "sandwich": "model.residual=Sandwich()"},
    seeds=(0,),
    alpha=None,
)

PRE = "sweep/pre-seed0"

lesson = Lesson(
    title="Residual stream and norms",
    question="How can eight layers learn together?",
    words=(
        "A layer does not replace what came before it: it adds to it. What runs through all layers, and grows by their "
        "outputs, is the residual stream; a gradient can run back along it without passing through any layer. The norm "
        "keeps the numbers that a layer reads at one size.",
        "Where the norm stands decides whether that path is free. Before the sublayer (pre-norm, GPT-2) it is. After "
        "the sum (post-norm, the Transformer of 2017) every layer normalises the whole stream, which needs a careful "
        "learning rate.",
    ),
    parts=(
        Sweep(
            settings=(ENGLISH,),
            note="Eight layers, one learning rate for all. Does one of them start late?",
        ),
        Look(
            "stream",
            of=PRE,
            flags={"text": "The value of an expression is an object."},
            note="Of the pre-norm model: the length of the stream after each layer, what each layer writes into it, "
            "and the probability of the answer if the model were read out there.",
        ),
    ),
    numbers=(
        Number(
            "loss with post-norm less that with pre-norm, nats", Less(Final("sweep/post-seed0"), Final(PRE)), -0.172
        ),
        Number(
            "loss with norms on both sides less that with pre-norm, nats",
            Less(Final("sweep/sandwich-seed0"), Final(PRE)),
            -0.064,
        ),
        Number("length of the stream after the embedding", Found("stream", "norm/0"), 0.86, 2),
        Number("length of the stream after the last layer", Found("stream", "norm/-1"), 58.88, 2),
    ),
    answer=(
        "All three learn: post-norm reached 2.880, norms on both sides 2.987, pre-norm 3.052 (one seed). One could "
        "expect post-norm to start late or to fail at a high rate (Xiong et al. 2020); with eight layers, warm-up and "
        "Muon it does not, and it is ahead. `configs/ablations/norms.py` asks again, also with 16 layers.",
        "In the pre-norm model the stream is 0.86 long after the embedding and 58.88 after the last layer. The first "
        "feed-forward alone writes 21.4: the later layers hardly read the token, but what that layer made of it. Each "
        "of the sublayers after it writes 4 to 15 into a stream of 22 to 59.",
    ),
    time="1 min 46 s on one core",
)
