"""The place of the norm: before each sublayer, after the sum, on both sides of a sublayer, or on its output alone.

    python -m launch.sweep --config=configs/ablations/norms.py --run=runs/norms
    python -m launch.sweep --config=configs/ablations/norms.py --run=runs/norms16 --set model.num_layers=16

Hardware: 2 CPU cores. Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture"; the second command
asks the same of 16 layers.
"""

from configs.small import experiment
from train.lab.ablation import Ablation

ablation = Ablation(
    base=experiment,
    base_name="pre",
    variants={
        "post": "model.residual=PostNorm()",
        "sandwich": "model.residual=Sandwich()",
        "reordered": "model.residual=Reordered()",
    },
)
