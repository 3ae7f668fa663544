"""The next token: the loss of a language model, and how a prediction forms from layer to layer.

    python -m launch.course next_token
    python -m launch.train --config=configs/course/next_token.py --run=runs/next_token

The second command needs the text that the first one writes into runs/course/texts.
"""

import dataclasses

from configs.course.base import experiment as base
from train.course.lesson import ENGLISH, Lesson, Look, Number, Run
from train.course.numbers import Final
from train.experiment import Checkpoints, Evaluation, Samples, Training
from train.schedules import WarmupStableDecay

STEPS = 600
TEXT = "The value of an expression is the"

experiment = dataclasses.replace(
    base,
    training=Training(num_steps=STEPS, clip_norm=1.0),
    schedule=WarmupStableDecay(peak=1e-2, warmup_steps=20, decay_steps=420),
    evaluation=Evaluation(every=200, max_batches=16),
    checkpoints=Checkpoints(every=STEPS),
    samples=Samples(prompts=(TEXT,), length=64),
)

lesson = Lesson(
    title="The next token",
    question="What does a language model learn, and how is that measured?",
    words=(
        "A language model gives every token of its vocabulary a probability of being the next one. Its loss is the "
        "mean of - log p(token that came), in nats: 6.24 for a model that takes all 512 tokens for equally likely, "
        "and 0 for one that always knows. The exponential of the loss is the perplexity: among so many tokens, all "
        "equally likely, the model hesitates.",
        "All else in this course is in the service of this number, and every text that a model writes is drawn from "
        "these probabilities, token by token.",
    ),
    parts=(
        Run(
            settings=(ENGLISH,),
            note="The training loss, step by step, and the loss on the last tenth of the text, which the model never "
            "trained on. When the second stops falling while the first goes on, the model learns by heart.",
            samples=True,
        ),
        Look(
            "lens",
            flags={"text": f"{TEXT} value of the last expression in the list."},
            note="The logit lens: what the model would predict if it ended after each layer. Rows are layers, the last "
            "one on top; a cell has the likeliest next token. Where does the right one appear?",
        ),
        Look(
            "logits",
            flags={"text": TEXT},
            note="The same prediction as a sum: what each layer, head and neuron added to the logit of the likeliest "
            "token. The shares sum to the logit exactly.",
        ),
    ),
    numbers=(
        Number("validation loss, nats a token", Final("run"), 2.671),
        Number("perplexity", Final("run", "perplexity"), 14.46, 2),
        Number("bits per byte", Final("run", "bits_per_byte"), 1.930),
    ),
    answer=(
        "The loss falls from log 512 = 6.24 to 2.671 nats: the model hesitates among 14.5 tokens, and a byte of unseen "
        "text costs it 1.930 bits (one seed; `gzip -9` takes 2.11 for that tenth alone). The texts that it writes "
        "have the words and the indentation of the help, and no sense.",
        "Read out after the embedding the lens agrees with the model's first choice in 15% of the places, after the "
        "first layer in 37%. In the sum of shares the first feed-forward writes most of the logit (5.74 of 7.11): much "
        "of the next token follows from the last one alone. One head of the second layer votes against (-1.06).",
    ),
    time="29 s on one core",
)
