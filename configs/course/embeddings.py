"""Embeddings: what the vectors of words are near to, after some minutes of predicting the next word.

    python -m launch.course embeddings
    python -m launch.train --config=configs/course/embeddings.py --run=runs/embeddings

The second command needs the text that the first one writes into runs/course/texts.
"""

import dataclasses

from configs.course.base import experiment as base
from configs.course.base import text
from train.course.lesson import ENGLISH, Lesson, Look, Number, Run
from train.course.numbers import Final, Found
from train.data.config import SentencePiece
from train.experiment import Checkpoints, Evaluation, Training
from train.schedules import WarmupStableDecay

STEPS = 500

experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, vocab_size=1024),
    data=dataclasses.replace(text, tokenizer=SentencePiece(vocab_size=1024)),
    training=Training(num_steps=STEPS, clip_norm=1.0),
    schedule=WarmupStableDecay(peak=1e-2, warmup_steps=20, decay_steps=350),
    evaluation=Evaluation(every=100, max_batches=16),
    checkpoints=Checkpoints(every=250, keep_every=250),
)

PLURALS = ("object objects", "value values", "argument arguments", "method methods")

lesson = Lesson(
    title="Embeddings",
    question="What does a vector of a token come to mean?",
    words=(
        "The first thing that a model does with a token is to look up its row in a table: a vector of 64 numbers, "
        "drawn at random before training. Nobody tells the model which tokens are alike. Tokens that stand in like "
        "surroundings get like gradients, and their vectors move together.",
    ),
    parts=(
        Run(settings=(ENGLISH,), note="A model with a vocabulary of 1,024 pieces, of which many are whole words."),
        Look(
            "neighbours",
            flags={"words": ("must", "is", "the", "object", "function", "one"), "top": 8},
            note="The nearest rows by cosine. Verbs beside `must`, articles beside `the`: classes of words come first, "
            "meanings later. Two random vectors of this width have a cosine of 0.125 or more about one time in six.",
        ),
        Look(
            "analogies",
            flags={"analogies": tuple(f"{one} {other}" for one in PLURALS for other in PLURALS if one != other)},
            note="Is the step from singular to plural the same for several words? For `a b c d` the instrument takes "
            "b - a + c, and looks for d among the nearest rows. Chance would put it at rank 512.",
        ),
        Look(
            "map",
            flags={"checkpoints": ("250", "500")},
            note="The rows in two dimensions, at step 250 and at the end: the two directions in which they differ "
            "most. Hover over the points. What lies together?",
        ),
    ),
    numbers=(
        Number("share of twelve plurals among the ten nearest rows", Found("analogies", "top_10"), 1.00, 2),
        Number("the same, as the nearest row", Found("analogies", "top_1"), 0.33, 2),
        Number("cosine of must and its nearest neighbour", Found("neighbours", "neighbours/must/0/cosine"), 0.73, 2),
        Number("validation loss, nats a token", Final("run"), 3.577),
    ),
    answer=(
        "The nearest rows of `must` are `can`, `may`, `will` and `should`; those of `is` begin with `are`; those of "
        "`object` are `value`, `block`, `method`, `argument`, `instance` (one seed). Nobody said that these are "
        "verbs or nouns: three and a half passes over 147,000 tokens of text did.",
        "All twelve plurals are among the ten nearest rows, and four are the nearest. Before them come other plurals "
        "(`characters`) and the ending `s` itself: the direction means plural more than it means this word. Of "
        "king - man + woman there is nothing here: such words are not in the text.",
    ),
    time="18 s on one core",
)
