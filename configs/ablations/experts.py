"""A mixture of experts against a dense feed-forward, at equal active parameters, and so at equal FLOPs of a token.

    python -m launch.sweep --config=configs/ablations/experts.py --run=runs/experts

Two experts of half the width read each token; of 8 experts a mixture has four times the feed-forward parameters of the
base, of 32 experts sixteen times. `shared` gives half of the active width to a feed-forward that reads every token.
Shazeer et al. 2017, "Outrageously Large Neural Networks"; Fedus, Zoph, Shazeer 2021, "Switch Transformers"; shared
experts: Dai et al. 2024, "DeepSeekMoE".

Hardware: 2 CPU cores, 36 min of one of them for twelve runs. Loss with seeds 0, 1, 2: dense 4.1365 (standard deviation
over seeds 0.015). Differences to it with 95% intervals: experts8 -0.002 (-0.020 to 0.016), experts32 +0.002 (-0.020 to
0.024), shared +0.019 (0.001 to 0.036; p = 0.13 of three comparisons): none is shown by three seeds. This disagrees with
the papers, whose mixtures are well ahead at equal FLOPs: they train for far more than the 300 steps of here, in which
an expert of 32 reads a sixteenth of the tokens. On this CPU a step takes 1.6 times that of the base with 8 experts, and
3.4 times with 32.
"""

from configs.small import experiment
from model.feedforward.balance import BalanceLoss
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import Gated
from train.lab.ablation import Ablation, Hold


def experts(num_experts: int, top_k: int = 2, shared: int | None = None) -> Experts:
    """Returns a mixture whose experts have half the width of the base's feed-forward."""
    return Experts(
        num_experts=num_experts,
        top_k=top_k,
        expert=Gated(width=168, activation="silu"),
        shared=None if shared is None else Shared(ffn=Gated(width=shared, activation="silu")),
        balance_loss=BalanceLoss(coefficient=0.01),
    )


ablation = Ablation(
    base=experiment,
    base_name="dense",
    variants={
        "experts8": {"model.ffn": experts(8)},
        "experts32": {"model.ffn": experts(32)},
        "shared": {"model.ffn": experts(8, top_k=1, shared=168)},
    },
    hold=Hold(equal="active_params", by="ffn"),
)
