"""Why Transformers replaced RNNs: attention and five other mixers of tokens at equal parameters.

    python -m launch.sweep --config=configs/ablations/mixers.py --run=runs/mixers --set data.path=tinyshakespeare.txt

Hardware: 2 CPU cores; configs/ablations/mixers_time.py asks the same at equal time. `python -m tests.benchmarks.mixers`
measures the speed against the length of the sequence, and the gradient's norm against the distance ("Other mixers" in
tests/benchmarks/README.md). The head widths of recurrent mixers, which are the units of LSTM and GRU, make up for their
gates: the parameters are within 1% of the 804,096 with attention.
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
