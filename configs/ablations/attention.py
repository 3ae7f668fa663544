"""The heads of attention: as many key heads as query heads, fewer, one, and a latent, at equal parameters.

    python -m launch.sweep --config=configs/ablations/attention.py --run=runs/attention

Hardware: 2 CPU cores, 26 min for twelve runs beside other work. The parameters that a variant saves on keys and values
go to its feed-forward. Multi-query: Shazeer 2019, "Fast Transformer Decoding"; grouped: Ainslie et al. 2023, "GQA";
latent: DeepSeek-AI 2024, "DeepSeek-V2", section 2.1.

Loss with seeds 0, 1, 2: multi-head 4.137 (standard deviation over seeds 0.015). Differences to it with 95% intervals:
multi-query +0.001 (-0.015 to 0.017), grouped +0.004 (-0.015 to 0.023), neither shown; latent +0.034 (0.018 to 0.050),
worse, p = 0.035. DeepSeek-V2 finds the latent better than multi-head attention, with models of 16 billion parameters
and more; here the latent has 48 numbers for a width of 128.
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
