"""Supervised fine-tuning of any run on conversations of your own.

    python -m launch.convert --from=models/Llama-3.2-1B --run=runs/llama-1b
    python -m launch.train --config=configs/alignment/conversations.py --init_from=runs/llama-1b --run=runs/chat \
        --set data.path=chats.jsonl
    python -m launch.generate --run=runs/chat --chat

--init_from gives the model, the tokenizer and the chat template. One epoch or two of a few thousand conversations are
common: num_steps is the number of batches, of 16 rows with several conversations each. A model with a context of fewer
than 1,024 tokens needs data.sequence_length too: `--set data.sequence_length=512` for a run of configs/quickstart.py.

Hardware: what the model's size needs; `--print_config` prints the memory of a device.
"""

import dataclasses

from configs.alignment.pretrain_instructions import experiment as base
from train.data.conversations.option import Conversations, HeldOutConversations
from train.experiment import Checkpoints, Evaluation, Experiment, Samples, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

experiment: Experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, context_length=1024),  # --init_from takes the place of this model
    data=Conversations(
        path="chats.jsonl",
        validation=HeldOutConversations(fraction=0.05),
        too_long="shorten",
        batch_size=16,
        sequence_length=1024,
    ),
    training=Training(num_steps=500),
    optimizer=AdamW(weight_decay=0.0),
    schedule=Cosine(peak=1e-5, final=1e-6, warmup_steps=20),
    evaluation=Evaluation(every=100),
    evaluations=(),
    checkpoints=Checkpoints(every=100),
    samples=Samples(length=16),
)
