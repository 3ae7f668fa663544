"""The activation of the feed-forward, gated and not, at equal parameters: a layer without a gate is half again as wide.

    python -m launch.sweep --config=configs/ablations/activations.py --run=runs/activations

Hardware: 2 CPU cores, about 55 min of one of them for 27 runs. Shazeer 2020, "GLU Variants Improve Transformer",
table 1; ReLU squared: So et al. 2021, "Primer".

Loss with seeds 0, 1, 2: swiglu 4.136 (standard deviation over seeds 0.015). Differences to it with 95% intervals: gelu
-0.053 (-0.083 to -0.024), silu -0.042 (-0.081 to -0.003), relu -0.037 (-0.067 to -0.006), relu2 -0.011 (-0.050 to
0.027), glu -0.005 (-0.015 to 0.006), reglu -0.001 (-0.009 to 0.008), geglu 0.006 (-0.011 to 0.023), bilinear 0.007
(-0.054 to 0.067). Of eight comparisons none is shown by three seeds (the smallest p is 0.13). The three plain ones are
ahead of every gate here, as far as such intervals say, and Shazeer's gates are ahead at 220 million parameters and
65,000 steps; these are 300.
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
