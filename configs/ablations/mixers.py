"""Why Transformers replaced RNNs: attention and five other mixers of tokens at equal parameters.

    python -m launch.sweep --config=configs/ablations/mixers.py --run=runs/mixers --set data.path=tinyshakespeare.txt
    python -m launch.report --run=runs/mixers --reach --lengths=64,256,1024

The second command measures how far back the trained models look, and their speed against the length of a row.
configs/ablations/mixers_time.py asks the same at equal time. The head widths of recurrent mixers, which are the units
of LSTM and GRU, make up for their gates: the parameters are within 1% of the 804,096 with attention.

Hardware: 2 CPU cores, about an hour of one of them for 18 runs. Loss of tinyshakespeare's characters with seeds 0, 1,
2: attention 1.905 (standard deviation over seeds 0.012). Differences to it with 95% intervals, all shown (p < 0.005):
state_space -0.276 (-0.293 to -0.260), gated_delta -0.227 (-0.275 to -0.180), gru -0.181 (-0.211 to -0.151), lstm -0.175
(-0.196 to -0.153), linear_attention +0.066 (0.051 to 0.082). So it is not the loss of small models: in windows of 64
characters whoever passes a state from token to token learns faster at equal parameters. What recurrences lack shows in
the report: the gradient 32 tokens back is 1/43 of the last token's with attention, 1/186 with LSTM, 1/183 with GRU; and
in rows of 1,024 tokens attention still takes one step where a recurrence takes 1,024 (on this CPU, without parallel
units to fill, a pass takes 0.40 s with attention, 0.34 and 0.38 with these). Rates were not tuned: they are nanoGPT's,
for attention.
"""

from configs.shakespeare_char import experiment
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace
from train.lab.ablation import Ablation, Hold

ablation = Ablation(
    base=experiment,
    base_name="attention",
    variants={
        "linear_attention": {"model.mixer": LinearAttention(num_heads=4)},
        "gated_delta": {"model.mixer": GatedDelta(num_heads=4, head_dim=26, value_head_dim=24)},
        "state_space": {"model.mixer": StateSpace(num_heads=4, head_dim=36, state_dim=32)},
        "lstm": {"model.mixer": LSTM(head_dim=71)},
        "gru": {"model.mixer": GRU(head_dim=85)},
    },
    hold=Hold(equal="params", by="mixer"),
)
