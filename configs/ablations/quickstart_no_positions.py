"""The quickstart without position encoding, to measure the effect of rotary positions.

    python -m launch.train --config=configs/ablations/quickstart_no_positions.py --run=runs/quickstart_no_positions

Hardware and time: as configs/quickstart.py. Compare the two reports, over several seeds (--set training.seed=1).
"""

import dataclasses

from configs.quickstart import experiment as base
from model.positions.absolute import NoPositions

experiment = dataclasses.replace(base, model=dataclasses.replace(base.model, position=NoPositions()))
