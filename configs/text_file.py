"""A small decoder on one text file of your own, byte by byte: it trains no tokenizer, and the text may have any size.

    python -m launch.train --config=configs/text_file.py --run=runs/book --set data.path=book.txt

The model and its training are those of configs/quickstart.py; the last tenth of the file is held out.

Hardware: 2 CPU cores, 7 minutes. On tinyshakespeare (1.1 MB, 2.2 epochs): validation loss 1.480, 2.13 bits per byte.
"""

import dataclasses

from configs.quickstart import experiment as base
from train.data.config import Bytes, Tail
from train.experiment import Samples

experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, vocab_size=257),
    data=dataclasses.replace(base.text, path="book.txt", tokenizer=Bytes(), validation=Tail(fraction=0.1)),
    samples=Samples(prompts=("The ",), length=200),
)
