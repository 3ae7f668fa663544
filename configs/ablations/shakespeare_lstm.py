"""The Shakespeare experiment with an LSTM in place of attention.

    python -m launch.train --config=configs/ablations/shakespeare_lstm.py --run=runs/shakespeare_lstm \
        --set data.path=tinyshakespeare.txt

Parameters: 805,504, against 804,096 with attention: 71 cells a layer.
Hardware and time: see "Other mixers" in tests/benchmarks/README.md; the command there trains all mixers.
"""

import dataclasses

from configs.shakespeare_char import experiment as base
from model.recurrent.lstm import LSTM

mixer = LSTM(head_dim=71)
experiment = dataclasses.replace(base, model=dataclasses.replace(base.model, mixer=mixer))
