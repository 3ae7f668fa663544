"""Tokens: bytes, 512 pieces or 2,048 pieces of text, judged in bits per byte.

    python -m launch.course tokens
    python -m launch.sweep --config=configs/course/tokens.py --run=runs/tokens

The second command needs the text that the first one writes into runs/course/texts.
"""

import dataclasses

from configs.course.base import STEPS
from configs.course.base import experiment as base
from train.course.lesson import ENGLISH, Lesson, Look, Number, Sweep
from train.course.numbers import Final, Found, Less
from train.experiment import Evaluation
from train.lab.ablation import Ablation

ablation = Ablation(
    base=dataclasses.replace(base, evaluation=Evaluation(every=STEPS)),  # of all text: batches differ in bytes
    base_name="pieces512",
    variants={
        "bytes": ("model.vocab_size=257", "data.tokenizer=Bytes()"),
        "pieces2048": ("model.vocab_size=2048", "data.tokenizer.vocab_size=2048"),
    },
    seeds=(0,),
    metric="bits_per_byte",
    alpha=None,
)

TEXT = "How many r's are in strawberry? The value of an expression is an object."

lesson = Lesson(
    title="Tokens",
    question="In what pieces does a model read and write?",
    words=(
        "A model knows nothing of letters. A tokenizer cuts a text into pieces, and each piece is a number of the "
        "vocabulary. With the 257 symbols of bytes a text is long; with more pieces it is shorter, and the table of "
        "embeddings larger.",
        "Losses per token cannot be compared between tokenizers, because their tokens hold different amounts of text. "
        "Bits per byte can: the loss of a text in bits, divided by its bytes.",
    ),
    parts=(
        Sweep(
            settings=(ENGLISH,),
            note="Three models with the same layers read the same number of tokens. A token of 2,048 pieces holds more "
            "text than a byte, so that model has seen more text. In the table, compare `bits_per_byte`, and the "
            "parameters.",
        ),
        Look(
            "tokens",
            of="sweep/pieces512-seed0",
            flags={"text": TEXT, "against": "{here}/sweep/pieces2048-seed0"},
            note="Look at the pieces of strawberry: the model sees their numbers, and no letter of them. Then look at "
            "the bytes a token by script: a tokenizer that was trained on English spends a token on each byte of "
            "Greek or Hindi.",
        ),
    ),
    numbers=(
        Number(
            "bits per byte of bytes less those of 2,048 pieces",
            Less(Final("sweep/bytes-seed0", "bits_per_byte"), Final("sweep/pieces2048-seed0", "bits_per_byte")),
            0.511,
        ),
        Number("bytes a token of this text, 512 pieces", Found("tokens", "tokenizers/0/bytes_per_token"), 2.18, 2),
        Number("bytes a token of this text, 2,048 pieces", Found("tokens", "tokenizers/1/bytes_per_token"), 2.88, 2),
    ),
    answer=(
        "Bytes reached 2.333 bits per byte, 512 pieces 2.109 and 2,048 pieces 1.821 (one seed): after as many tokens, "
        "the larger vocabulary has seen more text, and its table has more parameters (361k against 132k). Which of "
        "the two counts more, this lesson does not tell apart: `configs/ablations/vocabulary.py` holds the text equal.",
        "The word strawberry is seven pieces with either vocabulary (`st ra w b er r y`), and its three r's lie in "
        "three of them. Every byte of Russian, Chinese or Hindi is a token of its own.",
    ),
    time="38 s on one core",
)
