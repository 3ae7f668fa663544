"""Heads: one, four or sixteen of them in the same width, and what each is worth.

    python -m launch.course heads
    python -m launch.sweep --config=configs/course/heads.py --run=runs/heads

The second command needs the text that the first one writes into runs/course/texts. configs/induction_heads.py goes on
from here: two layers of heads that learn to copy, which one layer cannot.
"""

from configs.course.base import experiment as base
from train.course.lesson import ENGLISH, Lesson, Look, Number, Sweep
from train.course.numbers import Final, Found, Less
from train.lab.ablation import Ablation

ablation = Ablation(
    base=base,
    base_name="four",
    variants={"one": "model.mixer.num_heads=1", "sixteen": "model.mixer.num_heads=16"},
    seeds=(0,),
    alpha=None,
)

FOUR = "sweep/four-seed0"

lesson = Lesson(
    title="Heads",
    question="Why several heads, and are all of them needed?",
    words=(
        "One softmax gives one set of weights: a token that wants to read two places has to mix them. Several heads "
        "read several places at once, each in a narrower space: four heads of 16 numbers cost what one of 64 does.",
    ),
    parts=(
        Sweep(settings=(ENGLISH,), note="The same parameters, cut into one, four or sixteen heads."),
        Look(
            "heads",
            of=FOUR,
            flags={"half": 48},
            note="Random tokens, then the same again. The score of a role is the mean weight that a head gives to the "
            "place of that role: the token before, the same token earlier, the token after that one (induction), the "
            "first token. A model of this size and training has roles of position, and no induction yet: that takes "
            "a phase change, which `configs/induction_heads.py` shows.",
        ),
        Look(
            "ablate",
            of=FOUR,
            flags={
                "text": "The value of an expression is an object. An object has a type, and the type of an object "
                "is the class of the object. The class may define methods.",
                "taps": ("mixer_heads", "mixer_output", "ffn_output"),
            },
            note="Each head, and each sublayer, is replaced by its mean over the text. The rise of the loss is what it "
            "was worth for this text. Some heads are worth nothing, or less.",
        ),
    ),
    numbers=(
        Number("loss with one head less that with four, nats", Less(Final("sweep/one-seed0"), Final(FOUR)), -0.093),
        Number(
            "loss with sixteen heads less that with four, nats", Less(Final("sweep/sixteen-seed0"), Final(FOUR)), 0.170
        ),
        Number("best score of a previous-token head", Found("heads", "heads/*/previous_token"), 0.31, 2),
        Number("rise of the loss without the head that is worth most", Found("ablate", "rise/mixer_heads/*/*"), 0.081),
        Number(
            "rise of the loss without the head that is worth least",
            Found("ablate", "rise/mixer_heads/*/*", "min"),
            -0.007,
        ),
    ),
    answer=(
        "One head of 64 numbers reached 2.975, four of 16 reached 3.068, sixteen of 4 reached 3.238 (one seed): in a "
        "stream as narrow as this, several heads do not pay. That is no rule: a head of 4 numbers can hardly "
        "tell two tokens apart, and the heads of large models have 64 to 128 each.",
        "The best previous-token head gives that token 0.31 of its weight, below the 0.4 from which the instrument "
        "speaks of a role; no head does induction. The loss of the text rises by 0.081 without the head that is worth "
        "most, and falls by 0.007 without another. By far the most goes with the first feed-forward (3.73): it is "
        "where the next token follows from the token itself.",
    ),
    time="40 s on one core",
)
