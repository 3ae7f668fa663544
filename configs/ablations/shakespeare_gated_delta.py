"""The Shakespeare experiment with the gated delta rule in place of attention.

    python -m launch.train --config=configs/ablations/shakespeare_gated_delta.py --run=runs/shakespeare_gated_delta \
        --set data.path=tinyshakespeare.txt

Parameters: 804,992, against 804,096 with attention; the heads are narrower to make room for gates and convolutions.
Hardware and time: see "Other mixers" in tests/benchmarks/README.md; the command there trains all mixers.
"""

import dataclasses

from configs.shakespeare_char import experiment as base
from model.recurrent.delta import GatedDelta

mixer = GatedDelta(num_heads=4, head_dim=26, value_head_dim=24)
experiment = dataclasses.replace(base, model=dataclasses.replace(base.model, mixer=mixer))
