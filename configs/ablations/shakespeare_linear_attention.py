"""What linear attention makes of the Shakespeare experiment in the place of attention.

    python -m launch.train --config=configs/ablations/shakespeare_linear_attention.py --run=runs/shakespeare_linear \
        --set data.path=tinyshakespeare.txt

As many parameters, 804,096: its projections are those of attention.
Hardware and time: see "Other mixers" in tests/benchmarks/README.md, whose command trains all of them.
"""

import dataclasses

from configs.shakespeare_char import experiment as base
from model.recurrent.linear import LinearAttention

mixer = LinearAttention(num_heads=4)
experiment = dataclasses.replace(base, model=dataclasses.replace(base.model, attention=mixer))
