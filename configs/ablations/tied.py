"""One table for the embedding and the logits, or two, at equal parameters: two tables leave less for the layers.

    python -m launch.sweep --config=configs/ablations/tied.py --run=runs/tied

Hardware: 2 CPU cores. Press, Wolf 2017, "Using the Output Embedding to Improve Language Models". A quarter of the
parameters of the base are its table.
"""

from configs.small import experiment
from train.lab.ablation import Ablation

ablation = Ablation(
    base=experiment,
    base_name="tied",
    variants={"untied": "model.unembedding=Untied()"},
    hold="params",
)
