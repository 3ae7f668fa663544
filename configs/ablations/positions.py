"""Six kinds of positions, and what each does beyond the length that it was trained on.

    python -m launch.sweep --config=configs/ablations/positions.py --run=runs/positions

Hardware: 2 CPU cores, 67 min for 18 runs beside much other work. Nothing is held equal: of the six only learned
positions (65,536 numbers) and the relative bias (128) add parameters. Training windows have 128 tokens; the evaluations
`twice` and `four_times` read the validation split in windows of 256 and 512. Press, Smith, Lewis 2021, "Train Short,
Test Long"; Kazemnejad et al. 2023, "The Impact of Positional Encoding on Length Generalization in Transformers".

Loss with seeds 0, 1, 2: rotary 4.136 (standard deviation over seeds 0.015). Differences to it with 95% intervals: ALiBi
-0.089 (-0.096 to -0.082), better, p = 0.002; relative +0.048 (0.026 to 0.069), learned +0.143 (0.122 to 0.165), none
+0.217 (0.194 to 0.239) and sinusoidal +0.835 (0.578 to 1.092), all worse, p at most 0.011. In windows of four times the
length ALiBi is ahead by 0.218 (0.183 to 0.254) and better than at the trained length; every other kind is worse there
than at that length, rotary by 0.10, as in Press et al. 2021. After 300 steps the nearest tokens matter most, which
ALiBi begins with. Sinusoidal behind no positions disagrees with Vaswani et al. 2017, who scale embeddings by
sqrt(width): here they begin with a deviation of 0.02, and the sinusoids have 0.7.
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
