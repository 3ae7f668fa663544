"""What happens to the parameters of an encoder, of the attention to it, and of tables that layers share."""

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.config import ModelConfig
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.feedforward.mlp import MLP
from model.norms import LayerNorm
from model.options.tree import check
from model.positions.relative import RelativeBias
from model.vocabulary.embedding import Tied
from tests.train.optimizers.test_every_parameter import SIZES, table, treatment

PARAMETERS = """
blocks.cross.key                  projection decayed [embed -> kv_heads head_dim]
blocks.cross.key_bias             bias
blocks.cross.key_norm.scale       scale
blocks.cross.output               residual decayed [heads head_dim -> embed]
blocks.cross.output_bias          bias
blocks.cross.query                projection decayed [embed -> heads head_dim]
blocks.cross.query_bias           bias
blocks.cross.query_norm.scale     scale
blocks.cross.value                value decayed [embed -> kv_heads head_dim]
blocks.cross.value_bias           bias
blocks.residual.cross_norm.scale  scale
embedding.output_bias             bias
encoder.blocks.ffn.down           residual decayed [ffn -> embed]
encoder.blocks.ffn.up             value decayed [embed -> ffn]
encoder.blocks.mixer.key          projection decayed [embed -> kv_heads head_dim]
encoder.blocks.mixer.output       residual decayed [heads head_dim -> embed]
encoder.blocks.mixer.query        projection decayed [embed -> heads head_dim]
encoder.blocks.mixer.value        value decayed [embed -> kv_heads head_dim]
encoder.blocks.residual.ffn_norm.scale    scale
encoder.blocks.residual.mixer_norm.scale  scale
encoder.final_norm.scale          scale
encoder.input_norm.scale          scale
encoder.position_bias             bias
input_norm.scale                  scale
position_bias                     bias
"""


def test_parameters():
    config = ModelConfig(
        num_layers=2,
        mixer=GroupedQuery(num_heads=2),
        ffn=MLP(width=12),
        position=RelativeBias(buckets=4, max_distance=6, shared=True),
        norm=LayerNorm(bias=False),
        input_norm=LayerNorm(bias=False),
        unembedding=Tied(bias=True),
        encoder=Encoder(
            num_layers=2,
            context_length=8,
            mixer=GroupedQuery(num_heads=2),
            ffn=MLP(width=12),
            position=RelativeBias(buckets=4, max_distance=6, shared=True, bidirectional=True),
            cross=CrossAttention(num_heads=2, qkv_bias=True, output_bias=True, qk_norm=QKNorm()),
        ),
        **SIZES,
    )
    check(config)
    of_decoders = ("blocks.mixer", "blocks.ffn", "blocks.residual.mixer", "blocks.residual.ffn", "embedding.table")
    found = {name: words for name, words in treatment(config).items() if not name.startswith(of_decoders)}
    assert found == table(PARAMETERS) | {"final_norm.scale": "scale"}
