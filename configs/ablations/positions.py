"""Six kinds of positions, and what each does beyond the length that it was trained on.

    python -m launch.sweep --config=configs/ablations/positions.py --run=runs/positions

Hardware: 2 CPU cores. Nothing is held equal: of the six only learned positions (65,536 numbers) and the relative bias
(128) add parameters. Training windows have 128 tokens; the evaluations `twice` and `four_times` read the validation
split in windows of 256 and 512. Press, Smith, Lewis 2021, "Train Short, Test Long"; Kazemnejad et al. 2023, "The Impact
of Positional Encoding on Length Generalization in Transformers".
"""

import dataclasses

from configs.small import experiment
from train.evaluation.named_evaluations import NamedEvaluation
from train.lab.ablation import Ablation

ablation = Ablation(
    base=dataclasses.replace(
        experiment,
        evaluations=(
            NamedEvaluation(name="twice", sequence_length=256, every=300, max_batches=50),
            NamedEvaluation(name="four_times", sequence_length=512, every=300, max_batches=25),
        ),
    ),
    base_name="rotary",
    variants={
        "none": "model.position=NoPositions()",
        "learned": "model.position=Learned()",
        "sinusoidal": "model.position=Sinusoidal()",
        "alibi": "model.position=ALiBi()",
        "relative": "model.position=RelativeBias()",
    },
)
