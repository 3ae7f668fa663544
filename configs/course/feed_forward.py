"""Feed-forward: a plain one, a gated one of the same size, or none.

    python -m launch.course feed_forward
    python -m launch.sweep --config=configs/course/feed_forward.py --run=runs/feed_forward

The second command needs the text that the first one writes into runs/course/texts.
"""

from configs.course.base import experiment as base
from model.feedforward.mlp import Gated
from train.course.lesson import ENGLISH, Lesson, Look, Number, Sweep
from train.course.numbers import Final, Less
from train.lab.ablation import Ablation

ablation = Ablation(
    base=base,
    base_name="plain",
    variants={"gated": {"model.ffn": Gated(width=171)}, "none": "model.ffn=None"},  # 3 x 171 = 2 x 256.5
    seeds=(0,),
    alpha=None,
)

PLAIN = "sweep/plain-seed0"

lesson = Lesson(
    title="Feed-forward",
    question="What does a token do with what it has read?",
    words=(
        "Attention moves information between tokens, and the feed-forward works on each token alone: 64 numbers become "
        "256, a GELU bends each of them, and a second matrix brings them back to 64. Of a layer's parameters two "
        "thirds are here. A row of the first matrix and a column of the second make a neuron: a pattern that it "
        "looks for, and what it adds to the stream when it finds it.",
    ),
    parts=(
        Sweep(
            settings=(ENGLISH,),
            note="Plain and gated have the same number of parameters; without feed-forwards a model has fewer, so that "
            "its difference is that of the layer and of its parameters together.",
        ),
        Look(
            "neurons",
            of=PLAIN,
            flags={"units": (0, 1, 2, 3, 4, 5), "batches": 8, "examples": 6},
            note="The first six neurons of the last layer: the texts of the validation split that excite each one "
            "most, and the tokens whose logits it raises and lowers. Can you name what one looks for? Many have no "
            "name: they answer to several things.",
        ),
    ),
    numbers=(
        Number(
            "loss without feed-forwards less that with plain ones, nats",
            Less(Final("sweep/none-seed0"), Final(PLAIN)),
            0.020,
        ),
        Number(
            "loss with gated ones less that with plain ones, nats",
            Less(Final("sweep/gated-seed0"), Final(PLAIN)),
            0.022,
        ),
    ),
    answer=(
        "Plain 3.068, none 3.087, gated 3.090 (one seed): after 250 steps 66,000 parameters in feed-forwards are worth "
        "0.020 nats, which is as much as another seed changes. The two layers of attention alone learn as fast at "
        "first. And yet the model leans on them: the lesson on heads takes the first feed-forward out of the trained "
        "model, and its loss rises by 3.73. A part that is used is not a part that is needed.",
        "Neuron 0 fires at starts of lines and inside tables of the help; most others have no name.",
    ),
    time="46 s on one core",
)
