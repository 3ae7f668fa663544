"""A small BERT on the bytes of the Python standard library: bytes are hidden, and filled in from both sides.

    python -m launch.train --config=configs/masked_tokens.py --run=runs/masked
    python -m launch.evaluate --run=runs/masked --text=README.md

The encoder of Devlin et al. 2019 with 2 layers: learned positions, norms after sublayers, a dense layer before the
unembedding and a bias of logits; 15% of the tokens are drawn anew in every batch. The vocabulary has one id more than
the tokenizer: the mask.

Hardware: 2 CPU cores; 250 of the 1,000 steps took a minute of processor time, data included (14 minutes beside 30 other
processes). Validation loss 2.817 nats per hidden byte at step 250 (a guess: ln 258 = 5.55).
"""

from model.attention.directions import Bidirectional
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.parameters.maker import Normal
from model.positions.absolute import Learned
from model.residual import PostNorm
from model.vocabulary.embedding import Tied
from model.vocabulary.prediction_head import PredictionHead
from train.data.config import Bytes, Data
from train.experiment import Evaluation, Experiment, Training
from train.objectives.masked import MaskedTokens
from train.optimizers.options import AdamW
from train.schedules import Linear

experiment = Experiment(
    model=ModelConfig(
        vocab_size=258,
        context_length=128,
        num_layers=2,
        width=128,
        visibility=Bidirectional(),
        position=Learned(),
        input_norm=LayerNorm(),
        mixer=GroupedQuery(num_heads=4, qkv_bias=True, output_bias=True),
        ffn=MLP(width=512, activation="gelu", bias=True),
        norm=LayerNorm(),
        residual=PostNorm(),
        prediction_head=PredictionHead(),
        unembedding=Tied(bias=True),
        initialization=Normal(scale_residual=False),
    ),
    data=Data(path="stdlib", tokenizer=Bytes(), batch_size=16, sequence_length=128),
    objective=MaskedTokens(),
    training=Training(num_steps=1000),
    optimizer=AdamW(weight_decay=0.01),
    schedule=Linear(peak=2e-3, warmup_steps=100),
    evaluation=Evaluation(every=250, max_batches=32),
)
