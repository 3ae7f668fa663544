"""The Shakespeare experiment with a GRU in place of attention.

    python -m launch.train --config=configs/ablations/shakespeare_gru.py --run=runs/shakespeare_gru \
        --set data.path=tinyshakespeare.txt

Parameters: 804,092, against 804,096 with attention: 85 units a layer.
Hardware and time: see "Other mixers" in tests/benchmarks/README.md; the command there trains all mixers.
"""

import dataclasses

from configs.shakespeare_char import experiment as base
from model.recurrent.gru import GRU

mixer = GRU(head_dim=85)
experiment = dataclasses.replace(base, model=dataclasses.replace(base.model, mixer=mixer))
