"""nanoGPT's character-level experiment on one GPU: 10.6 million parameters, dropout 0.2.

    python -m launch.train --config=configs/shakespeare_char_gpu.py --run=runs/shakespeare_gpu \
        --set data.path=tinyshakespeare.txt

Hardware: one GPU (`ACCELERATOR=cuda12` or `cuda13`); 3 minutes on an H200. Best validation loss 1.4585, at step 2,000
(one seed); nanoGPT's README gives 1.4697. After that the model overfits: 1.7110 at the end.
python -m launch.evaluate --run=... --checkpoint=best measures the best checkpoint.
"""

import dataclasses

from configs.shakespeare_char import experiment as base
from model.attention.grouped_query import GroupedQuery
from model.dropout import Dropout
from model.feedforward.mlp import MLP
from train.experiment import Checkpoints, Evaluation

experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(
        base.model,
        context_length=256,
        num_layers=6,
        width=384,
        mixer=GroupedQuery(num_heads=6),
        ffn=MLP(width=1536, activation="gelu"),
        dropout=Dropout(embedding=0.2, attention=0.2, residual=0.2),
        precision=dataclasses.replace(base.model.precision, compute="bfloat16"),
        scan_layers=True,
    ),
    data=dataclasses.replace(base.data, batch_size=64, sequence_length=256),
    training=dataclasses.replace(base.training, num_steps=5000),
    evaluation=Evaluation(every=250),
    checkpoints=Checkpoints(every=1000),
)
