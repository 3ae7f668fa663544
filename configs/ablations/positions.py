"""Six kinds of positions: rotary, none, learned, sinusoidal, ALiBi, and a bias by relative distance.

    python -m launch.sweep --config=configs/ablations/positions.py --run=runs/positions

Hardware: 2 CPU cores. Nothing is held equal: of the six only learned positions (65,536 numbers) and the relative bias
(128) add parameters.
"""

from configs.small import experiment
from train.lab.ablation import Ablation

ablation = Ablation(
    base=experiment,
    base_name="rotary",
    variants={
        "none": "model.position=NoPositions()",
        "learned": "model.position=Learned()",
        "sinusoidal": "model.position=Sinusoidal()",
        "alibi": "model.position=ALiBi()",
        "relative": "model.position=RelativeBias()",
    },
)
