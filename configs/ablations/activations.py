"""The activation of the feed-forward, gated and not, at equal parameters: a layer without a gate is half again as wide.

    python -m launch.sweep --config=configs/ablations/activations.py --run=runs/activations

Hardware: 2 CPU cores. Shazeer 2020, "GLU Variants Improve Transformer", table 1; ReLU squared: So et al. 2021,
"Primer".
"""

from configs.small import experiment
from model.feedforward.mlp import MLP, Gated
from train.lab.ablation import Ablation, Hold

WIDTH = 336

ablation = Ablation(
    base=experiment,
    base_name="swiglu",
    variants={
        "geglu": {"model.ffn": Gated(width=WIDTH, activation="gelu")},
        "reglu": {"model.ffn": Gated(width=WIDTH, activation="relu")},
        "glu": {"model.ffn": Gated(width=WIDTH, activation="sigmoid")},
        "bilinear": {"model.ffn": Gated(width=WIDTH, activation="identity")},
        "relu": {"model.ffn": MLP(width=WIDTH, activation="relu")},
        "gelu": {"model.ffn": MLP(width=WIDTH, activation="gelu")},
        "silu": {"model.ffn": MLP(width=WIDTH, activation="silu")},
        "relu2": {"model.ffn": MLP(width=WIDTH, activation="relu2")},
    },
    hold=Hold(equal="params", by="ffn"),
)
