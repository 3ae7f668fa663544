"""The place of the norm: before each sublayer, after the sum, on both sides of a sublayer, or on its output alone.

    python -m launch.sweep --config=configs/ablations/norms.py --run=runs/norms
    python -m launch.sweep --config=configs/ablations/norms.py --run=runs/norms16 --set model.num_layers=16

Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture"; the second command asks the same of 16
layers. Hardware: 2 CPU cores; twelve runs took 32 min with 4 layers, and 95 min of one core with 16, beside much other
work.

Loss of 4 layers with seeds 0, 1, 2: pre 4.136 (standard deviation over seeds 0.015). Differences to it with 95%
intervals: post -0.043 (-0.070 to -0.016), better, p = 0.040; sandwich -0.038 (-0.086 to 0.010), not shown; reordered
+0.551 (0.486 to 0.616), worse, p = 0.0023. Post-norm ahead in shallow models is what Liu et al. 2020 ("Understanding
the Difficulty of Training Transformers") find. The reordered norm disagrees with OLMo et al. 2024 ("2 OLMo 2 Furious"),
which trains well with it: here the outputs of sublayers begin at 0 (`zero_residual`), and their norm has a length of 1
after the first update.

Of 16 layers the order is another: pre 4.107 (standard deviation over seeds 0.024), sandwich +0.080 (0.042 to 0.119),
worse, p = 0.012; reordered +1.078 (0.993 to 1.163), worse, p = 0.0007; post +2.327 (2.247 to 2.408), worse, p = 0.0002:
a loss of 6.43, where a guess has ln 2048 = 7.62. That is what Xiong et al. find: deep post-norm needs a longer warmup,
or a lower rate.
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
