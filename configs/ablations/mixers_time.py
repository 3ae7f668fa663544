"""Why Transformers replaced RNNs: the mixers of configs/ablations/mixers.py at equal time instead of equal steps.

    python -m launch.sweep --config=configs/ablations/mixers_time.py --run=runs/mixers_time \
        --set data.path=tinyshakespeare.txt

Hardware: 2 CPU cores. The step of each variant is timed here before the first run, and gives its number of steps. Their
parameters are within 1% of one another. An accelerator gives other step times, and so another answer.
"""

import dataclasses

from configs.ablations import mixers
from train.lab.ablation import Ablation

ablation: Ablation = dataclasses.replace(mixers.ablation, hold="time")
