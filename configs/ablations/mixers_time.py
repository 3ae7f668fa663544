"""Why Transformers replaced RNNs: the mixers of configs/ablations/mixers.py at equal time instead of equal steps.

    python -m launch.sweep --config=configs/ablations/mixers_time.py --run=runs/mixers_time \
        --set data.path=tinyshakespeare.txt

The step of each variant is timed here before the first run, and gives its number of steps. Their parameters are within
1% of one another. An accelerator gives other step times, and so another answer.

Hardware: 2 CPU cores, about an hour of one of them for 18 runs. Steps in the time of 2,000 with attention:
linear_attention 1,936, gru 1,656, lstm 1,591, state_space 1,464, gated_delta 937. Loss of tinyshakespeare's characters
with seeds 0, 1, 2: attention 1.905 (standard deviation over seeds 0.012). Differences to it with 95% intervals, all
shown (p < 0.025): state_space -0.236 (-0.273 to -0.199), gru -0.140 (-0.188 to -0.093), lstm -0.130 (-0.172 to -0.089),
gated_delta -0.102 (-0.164 to -0.040), linear_attention +0.075 (0.046 to 0.103). On two cores and in windows of 64
characters the time of a recurrence's steps does not cost it its lead (configs/ablations/mixers.py says why it has one).
"""

import dataclasses

from configs.ablations import mixers
from train.lab.ablation import Ablation

ablation: Ablation = dataclasses.replace(mixers.ablation, hold="time")
