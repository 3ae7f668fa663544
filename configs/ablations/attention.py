"""The heads of attention: as many key heads as query heads, fewer, one, and a latent, at equal parameters.

    python -m launch.sweep --config=configs/ablations/attention.py --run=runs/attention

Hardware: 2 CPU cores. The parameters that a variant saves on keys and values go to its feed-forward. Multi-query:
Shazeer 2019, "Fast Transformer Decoding"; grouped: Ainslie et al. 2023, "GQA"; latent: DeepSeek-AI 2024, "DeepSeek-V2",
section 2.1.
"""

from configs.small import experiment
from model.attention.latent import Latent
from train.lab.ablation import Ablation, Hold

ablation = Ablation(
    base=experiment,
    base_name="multi_head",
    variants={
        "grouped": "model.mixer.num_kv_heads=2",
        "multi_query": "model.mixer.num_kv_heads=1",
        "latent": {
            "model.mixer": Latent(num_heads=4, kv_rank=48, head_dim=24, rotary_head_dim=8, value_head_dim=32),
        },
    },
    hold=Hold(equal="params", by="ffn"),
)
