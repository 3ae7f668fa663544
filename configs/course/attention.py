"""Attention: all tokens before, the last four, or none at all.

    python -m launch.course attention
    python -m launch.sweep --config=configs/course/attention.py --run=runs/attention

The second command needs the text that the first one writes into runs/course/texts.
"""

from configs.course.base import experiment as base
from train.course.lesson import ENGLISH, Lesson, Look, Number, Sweep
from train.course.numbers import Final, Found, Less
from train.lab.ablation import Ablation

ablation = Ablation(
    base=base,
    base_name="everything",
    variants={
        "last_four": "model.mixer.pattern=SlidingWindow(size=4)",
        "none": ("model.mixer=None", "model.position=NoPositions()"),
    },
    seeds=(0,),
    alpha=None,
)

EVERYTHING, FOUR, NONE = "sweep/everything-seed0", "sweep/last_four-seed0", "sweep/none-seed0"

lesson = Lesson(
    title="Attention",
    question="What does a token read from the tokens before it?",
    words=(
        "Attention is the only place where a token hears of another one. Its query is compared with the keys of the "
        "tokens before it; the softmax of these products are weights, and it reads the sum of their values with these "
        "weights. `tests/formal_algorithms` has it in ten lines of NumPy (algorithm 4).",
        "A model without attention knows the last token alone. With a window of four, two layers reach six tokens "
        "back.",
    ),
    parts=(
        Sweep(
            settings=(ENGLISH,),
            note="How much is each of them worth? Compare the losses: the step from none to four tokens, and that from "
            "four tokens to all.",
        ),
        Look(
            "attention",
            of=EVERYTHING,
            flags={"text": "If the class has a method, the method is called with the class as its first argument."},
            note="Choose a head, then move over a token to see what it reads. Look for heads that read the token just "
            "before, those that read the same word earlier in the text, and those that rest on the first token. The "
            "table has their mean distance and their entropy: 0 is one token, and more is spread wider.",
        ),
    ),
    numbers=(
        Number("loss without attention less that with it, nats", Less(Final(NONE), Final(EVERYTHING)), 0.459),
        Number(
            "loss with a window of four less that with all tokens, nats", Less(Final(FOUR), Final(EVERYTHING)), -0.199
        ),
        Number("mean distance of the head that reads farthest, tokens", Found("attention", "heads/*/distance"), 7.9, 1),
        Number(
            "mean distance of the head that reads nearest, tokens",
            Found("attention", "heads/*/distance", "min"),
            1.6,
            1,
        ),
    ),
    answer=(
        "Without attention the loss is 3.527, with it 3.068 (one seed): 0.459 nats come from the tokens before the "
        "last one. A window of four is ahead of all tokens, with 2.868. A likely reason: what is near matters "
        "most, and heads that see everything have first to learn to look there.",
        "The maps fit that: the heads of the first layer spread their weights nearly "
        "evenly (entropy 2.3 to 2.4 nats, where the most is 2.61), and one head of the second layer has found its "
        "neighbours (mean distance 1.6). Give it more steps: `--set training.num_steps=1000`.",
    ),
    time="34 s on one core",
)
