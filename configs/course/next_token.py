"""The next token: the loss of a language model, and how the prediction forms from layer to layer.

    python -m launch.course next_token
    python -m launch.train --config=configs/course/next_token.py --run=runs/next_token

The second command needs the text that the first one writes into runs/course/texts.
"""

from configs.course.base import experiment
from train.course.lesson import ENGLISH, Lesson, Look, Number, Run
from train.course.numbers import Final, Found

__all__ = ["experiment", "lesson"]

lesson = Lesson(
    title="The next token",
    question="What does a language model learn, and how is that measured?",
    words=("A model gives every token of its vocabulary a probability of being the next one.",),
    parts=(
        Run(settings=(ENGLISH,), note="Training and validation loss.", samples=True),
        Look("lens", flags={"text": "The value of the expression is the"}, note="The logit lens."),
    ),
    numbers=(Number("validation loss, nats a token", Final("run"), 2.826),),
    answer=("x",),
    time="1 min",
)
