"""Models from the tables of papers, by name, that have no published config.json.

The GPT-3 models: Brown et al. 2020, "Language Models are Few-Shot Learners", section 2.1 and table 2.1: GPT-2's
architecture, with locally banded attention instead of dense attention in every second layer. The paper does not say how
wide the band is: here it is the 256 tokens of GPT-Neo (Black et al. 2021), in the same order, a dense layer first. The
paper does not mention dropout: there is none here. Two rows of the table are inconsistent and are kept as printed: 24
heads of 128 in "gpt3-xl" are wider than the model, and 40 heads in "gpt3-13b" do not divide its width of 5140. With 16
heads, or a width of 5120, they would have the parameter counts of table D.1.

The decoder of the Transformer: Vaswani et al. 2017, "Attention Is All You Need", sections 3 and 5.4 and table 3, as a
language model: without the encoder and the attention to it. Its positions have no limit; the context of 512 tokens is
our choice. So are the initial values, which the paper does not give: the entries of token embeddings have a standard
deviation of 1 after their factor, and matrices are scaled by their number of inputs.
"""

import dataclasses

from model.attention.grouped_query import GroupedQuery
from model.attention.patterns import SlidingWindow
from model.config import ModelConfig
from model.dropout import Dropout
from model.feedforward.mlp import MLP
from model.layers import Except
from model.norms import LayerNorm
from model.parameters.maker import FanIn
from model.positions.absolute import Learned, Sinusoidal
from model.residual import Multipliers, PostNorm


def _gpt3(layers: int, width: int, heads: int, head_dim: int) -> ModelConfig:
    dense = GroupedQuery(num_heads=heads, head_dim=head_dim, qkv_bias=True, output_bias=True)
    return ModelConfig(
        vocab_size=50257,
        context_length=2048,
        num_layers=layers,
        width=width,
        position=Learned(),
        mixer=dense,
        ffn=MLP(width=4 * width, activation="gelu_tanh", bias=True),
        norm=LayerNorm(),
        exceptions=(Except(layers="1::2", mixer=dataclasses.replace(dense, pattern=SlidingWindow(size=256))),),
    )


def _decoder(width: int, heads: int, ffn: int, dropout: float) -> ModelConfig:
    return ModelConfig(
        vocab_size=37000,
        context_length=512,
        num_layers=6,
        width=width,
        position=Sinusoidal(),
        mixer=GroupedQuery(num_heads=heads),
        ffn=MLP(width=ffn, activation="relu", bias=True),
        norm=LayerNorm(),
        residual=PostNorm(),
        multipliers=Multipliers(embedding=width**0.5),
        dropout=Dropout(embedding=dropout, residual=dropout),
        initialization=FanIn(embedding_std=width**-0.5),
    )


MODELS = {
    "gpt3-small": _gpt3(12, 768, 12, 64),
    "gpt3-medium": _gpt3(24, 1024, 16, 64),
    "gpt3-large": _gpt3(24, 1536, 16, 96),
    "gpt3-xl": _gpt3(24, 2048, 24, 128),
    "gpt3-2.7b": _gpt3(32, 2560, 32, 80),
    "gpt3-6.7b": _gpt3(32, 4096, 32, 128),
    "gpt3-13b": _gpt3(40, 5140, 40, 128),
    "gpt3-175b": _gpt3(96, 12288, 96, 128),
    "transformer-base": _decoder(512, 8, 2048, dropout=0.1),
    "transformer-big": _decoder(1024, 16, 4096, dropout=0.3),
}
