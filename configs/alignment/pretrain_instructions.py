"""A small model of the text from which the other configs of this folder start: instructions with their answers.

    python -m launch.data instructions --path=data/instructions
    python -m launch.train --config=configs/alignment/pretrain_instructions.py --run=runs/instructions_base

The text is lines such as `reverse dbca = acbd`. The model knows the answers, and not how a conversation looks: asked by
a chat template it answers none of the 256 test prompts, which the text does not have either.

Hardware: 2 CPU cores, 3 minutes beside other work. 0.36M parameters, 3.1M tokens: validation loss 0.632, 0.904 bits per
byte (most of the text are random letters); exact match in a conversation 0.0%, strict and lenient (one seed).
"""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.parameters.maker import FanIn
from model.positions.rotary import Rotary
from model.vocabulary.embedding import Tied
from train.data.config import Bytes, Data, SeparateText
from train.evaluation.named_evaluations import AnswerEvaluation
from train.experiment import Checkpoints, Evaluation, Experiment, Samples, Training
from train.optimizers.options import Muon
from train.schedules import WarmupStableDecay

experiment = Experiment(
    model=ModelConfig(
        vocab_size=257,
        context_length=128,
        num_layers=3,
        width=96,
        position=Rotary(theta=10_000.0),
        mixer=GroupedQuery(num_heads=4, qk_norm=QKNorm()),
        ffn=Gated(width=256, activation="silu"),
        norm=RMSNorm(),
        unembedding=Tied(),
        initialization=FanIn(embedding_std=0.02, zero_residual=True),
        scan_layers=False,
    ),
    data=Data(
        path="data/instructions/texts.train.jsonl",
        tokenizer=Bytes(),
        validation=SeparateText(path="data/instructions/texts.test.jsonl"),
        batch_size=16,
        sequence_length=128,
    ),
    training=Training(num_steps=1500),
    optimizer=Muon(weight_decay=0.01),
    schedule=WarmupStableDecay(peak=6e-3, final=0.0, warmup_steps=20, decay_steps=700),
    evaluation=Evaluation(every=500),
    evaluations=(
        AnswerEvaluation(name="answers", path="data/instructions/prompts.test.jsonl", every=500, max_tokens=16),
    ),
    checkpoints=Checkpoints(every=500),
    samples=Samples(prompts=("reverse dbca =",), length=16, temperature=0.0, top_p=1.0),
)
