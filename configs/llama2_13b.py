"""LLaMA-2 13B from scratch, for a pod: plan it before it is paid for.

    python -m launch.plan --config=configs/llama2_13b.py --topology=v5p:4x4x4 --search
    python -m launch.train --config=configs/llama2_13b.py --run=runs/llama2_13b --mesh=fsdp=64 --set data.path=corpus

Hardware: 64 TPU v5p chips or 64 H100. The shape is that of Touvron et al. 2023, "Llama 2: Open Foundation and
Fine-Tuned Chat Models", table 1, with its batch of 4 million tokens, peak learning rate, warm-up and decay; here for a
twentieth of its 2 trillion tokens. It has not been trained here.
"""

import dataclasses

from model.families.sizes import published
from model.parameters.precision import Precision
from train.data.config import Data, SentencePiece
from train.experiment import Checkpoints, Evaluation, Experiment, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

experiment = Experiment(
    model=dataclasses.replace(
        published("llama-2-13b"), precision=Precision(parameters="float32", compute="bfloat16"), remat="full"
    ),
    data=Data(path="corpus", tokenizer=SentencePiece(vocab_size=32000), batch_size=1024, sequence_length=4096),
    training=Training(num_steps=25_000, clip_norm=1.0),
    optimizer=AdamW(b1=0.9, b2=0.95, epsilon=1e-5, weight_decay=0.1),
    schedule=Cosine(peak=3e-4, final=3e-5, warmup_steps=2000),
    evaluation=Evaluation(every=1000, max_batches=20),
    checkpoints=Checkpoints(every=1000),
)
