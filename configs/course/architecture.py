"""Architecture against weights: the same architecture with other weights, and another architecture on the same text.

    python -m launch.course architecture
    python -m launch.sweep --config=configs/course/architecture.py --run=runs/architecture

The second command needs the texts that the first one writes into runs/course/texts.
"""

import dataclasses

from configs.course.base import STEPS, text
from configs.course.base import experiment as base
from model.positions.absolute import NoPositions
from model.recurrent.lstm import LSTM
from train.course.lesson import ENGLISH, Lesson, Number, Sweep
from train.course.numbers import Final, Less
from train.data.config import Bytes
from train.evaluation.named_evaluations import NamedEvaluation
from train.lab.ablation import Ablation


def other(path: str) -> tuple[NamedEvaluation, ...]:
    """The evaluation of the text that a model is not trained on."""
    return (NamedEvaluation(name="other", path=path, every=STEPS, max_batches=16),)


TEXTS = "{sweep}/../../texts"

ablation = Ablation(
    base=dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, vocab_size=257),
        data=dataclasses.replace(text, tokenizer=Bytes()),
        evaluations=other("runs/course/texts/python.txt"),
    ),
    base_name="english",
    variants={
        "python": (
            f"data.path={TEXTS}/python.txt",
            f'evaluations=(NamedEvaluation(name="other", path="{TEXTS}/english.txt", every={STEPS}, max_batches=16),)',
        ),
        "english_lstm": {"model.mixer": LSTM(), "model.position": NoPositions()},
    },
    seeds=(0,),
    metric="bits_per_byte",
    alpha=None,
)

ENGLISH_RUN, PYTHON_RUN, LSTM_RUN = (f"sweep/{name}-seed0" for name in ("english", "python", "english_lstm"))
OWN, OTHER = "bits_per_byte", "other/bits_per_byte"

lesson = Lesson(
    title="Architecture against weights",
    question="What is in the architecture, and what is in the weights?",
    words=(
        "The architecture is a function with open places: the config, a page of text, the same for all models here but "
        "one. The weights are the numbers in these places, and training puts them there. What a model knows is in its "
        "weights: the same architecture, trained on another text, knows other things.",
        "Three models read bytes, so that their losses compare: one is trained on English about Python, one with the "
        "same architecture on Python itself, and one on the same English with an LSTM (Hochreiter, Schmidhuber 1997) "
        "in the place of attention.",
    ),
    parts=(
        Sweep(
            settings=(
                ENGLISH,
                'evaluations=(NamedEvaluation(name="other", path="{texts}/python.txt", '
                f"every={STEPS}, max_batches=16),)",
            ),
            note="`bits_per_byte` is that of the last tenth of the text that each was trained on, so the row of "
            "`python` is about another text than the others.",
        ),
    ),
    numbers=(
        Number("English read by the model of English, bits per byte", Final(ENGLISH_RUN, OWN), 2.539),
        Number("English read by the model of Python", Final(PYTHON_RUN, OTHER), 3.643),
        Number("Python read by the model of Python", Final(PYTHON_RUN, OWN), 1.723),
        Number("Python read by the model of English", Final(ENGLISH_RUN, OTHER), 3.414),
        Number(
            "other weights: English read by the model of Python, less by that of English",
            Less(Final(PYTHON_RUN, OTHER), Final(ENGLISH_RUN, OWN)),
            1.104,
        ),
        Number(
            "another architecture: English read by the LSTM, less by attention",
            Less(Final(LSTM_RUN, OWN), Final(ENGLISH_RUN, OWN)),
            -0.261,
        ),
    ),
    answer=(
        "The model of English reads English with 2.539 bits per byte, and the model of Python reads it with 3.643: "
        "other weights cost 1.104 bits. Python is read with 1.723 by its own model, and with 3.414 by the other one. "
        "(Each is measured on 16,000 bytes: of the last tenth of a model's own text, of the start of the other.)",
        "With an LSTM in the place of attention English takes 0.261 bits less than with attention (one seed, 250 "
        "steps; 173k parameters against 132k): so early, and with so little text before each byte, recurrence is "
        "ahead. Architectures change how fast and how far a model learns, and `configs/ablations/mixers.py` compares "
        "them longer; what it knows is in the weights.",
    ),
    time="50 s on one core",
)
