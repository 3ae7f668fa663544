"""nanoGPT's character-level experiment on one GPU: 10.6 million parameters, dropout 0.2.

    python -m launch.train --config=configs/shakespeare_char_gpu.py --run=runs/shakespeare_gpu \
        --set data.path=tinyshakespeare.txt

Hardware: one GPU (`ACCELERATOR=cuda12` or `cuda13`); 1 min 09 s on an H100. Best validation loss 1.459, at about step
2,000 (mean of four runs of three seeds: 1.4560 to 1.4623); nanoGPT's README gives 1.4697. After that the model learns
the training text by heart: 1.69 at the end. Layers are unrolled: a step takes 8.9 ms, and 11.0 ms with layers
scanned.
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
        scan_layers=False,
    ),
    data=dataclasses.replace(base.text, batch_size=64, sequence_length=256),
    training=dataclasses.replace(base.training, num_steps=5000),
    evaluation=Evaluation(every=250),
    checkpoints=Checkpoints(every=1000),
)
