"""The Shakespeare experiment with linear attention in place of attention.

    python -m launch.train --config=configs/ablations/shakespeare_linear_attention.py --run=runs/shakespeare_linear \
        --set data.path=tinyshakespeare.txt

Parameters: 804,096, as with attention: the projections are the same.
Hardware and time: see "Other mixers" in tests/benchmarks/README.md; the command there trains all mixers.
"""

import dataclasses

from configs.shakespeare_char import experiment as base
from model.recurrent.linear import LinearAttention

mixer = LinearAttention(num_heads=4)
experiment = dataclasses.replace(base, model=dataclasses.replace(base.model, mixer=mixer))
