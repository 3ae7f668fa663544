"""The size of the vocabulary at equal text: fewer tokens of more bytes each, judged in bits per byte.

    python -m launch.sweep --config=configs/ablations/vocabulary.py --run=runs/vocabulary

Each variant has its own SentencePiece tokenizer and reads as many bytes as the base in 300 steps: a token of a large
vocabulary has more bytes, so it takes fewer steps. A larger table of embeddings adds parameters; nothing makes up for
these. Tao et al. 2024, "Scaling Laws with Vocabulary".

Hardware: 2 CPU cores, 30 min of one of them for 15 runs. Bits per byte with seeds 0, 1, 2: vocabulary2048 1.869
(standard deviation over seeds 0.006). Differences to it with 95% intervals: vocabulary4096 -0.019 (-0.027 to -0.012),
better, p = 0.023; vocabulary8192 -0.002 (-0.004 to 0.001), not shown; vocabulary512 +0.038 (0.017 to 0.058), worse,
p = 0.032; vocabulary1024 +0.100 (0.074 to 0.125), worse, p = 0.014. A best size between small and large is what the
paper finds. That 512 is ahead of 1024 is not: its tokens are so short that it takes 472 steps instead of 357 for the
same bytes, and at this length of training steps are what all variants lack.
"""

import dataclasses

from configs.small import experiment
from train.experiment import Evaluation
from train.lab.ablation import Ablation

# Bytes per training token of tokenizers that were trained on the library of Python 3.11; other versions differ little.
BYTES_PER_TOKEN = {512: 1.839, 1024: 2.436, 2048: 2.895, 4096: 3.306, 8192: 3.682}
BASE = experiment.model.vocab_size


def change(vocab_size: int) -> tuple[str, ...]:
    """Returns the settings of a variant that reads the base's bytes, with the phases of the schedule in proportion."""
    steps = experiment.training.num_steps * BYTES_PER_TOKEN[BASE] / BYTES_PER_TOKEN[vocab_size]
    return (
        f"model.vocab_size={vocab_size}",
        f"data.tokenizer.vocab_size={vocab_size}",
        f"training.num_steps={round(steps)}",
        f"schedule.decay_steps={round(steps * 0.7)}",
    )


ablation = Ablation(
    base=dataclasses.replace(experiment, evaluation=Evaluation(every=600)),  # of all text: batches differ in bytes
    base_name=f"vocabulary{BASE}",
    variants={f"vocabulary{size}": change(size) for size in BYTES_PER_TOKEN if size != BASE},
    metric="bits_per_byte",
)
