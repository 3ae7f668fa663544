"""Small models of several families, with random parameters that are far from their initial values."""

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import MLP, Gated
from model.norms import LayerNorm, RMSNorm
from model.positions.absolute import Learned
from model.residual import Multipliers, Parallel, Sandwich
from model.transformer import init
from model.vocabulary.embedding import Untied
from train.inspection.subject import Subject

SHAPE = {"vocab_size": 50, "context_length": 16, "num_layers": 2, "width": 16}

FAMILIES = {
    "gpt": ModelConfig(
        **SHAPE,
        mixer=GroupedQuery(num_heads=4, qkv_bias=True, output_bias=True),
        ffn=MLP(width=24, bias=True),
        norm=LayerNorm(),
        position=Learned(),
    ),
    "llama": ModelConfig(
        **SHAPE, mixer=GroupedQuery(num_heads=4, num_kv_heads=2), ffn=Gated(width=24), unembedding=Untied(bias=True)
    ),
    "gemma": ModelConfig(
        **SHAPE,
        mixer=GroupedQuery(num_heads=4, num_kv_heads=1, head_dim=8, logit_softcap=5.0),
        ffn=Gated(width=24, activation="gelu_tanh"),
        norm=RMSNorm(scale="zero"),
        residual=Sandwich(),
        multipliers=Multipliers(embedding=4.0),
        final_logit_softcap=3.0,
    ),
    "parallel": ModelConfig(
        **SHAPE, mixer=GroupedQuery(num_heads=2), ffn=MLP(width=24, bias=True), norm=LayerNorm(), residual=Parallel()
    ),
}


def subject(config, seed=0):
    """A model with random parameters, so that no norm, bias or gain is at its neutral value."""
    params = init(config, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    draw = np.random.default_rng(seed)
    noisy = [x + jnp.asarray(draw.normal(size=x.shape) * 0.2, x.dtype) for x in leaves]
    return Subject(config, jax.tree.unflatten(tree, noisy))


def tokens(rows=2, length=12, vocab=50, seed=1):
    """Random ids, int32 (rows, length)."""
    return np.random.default_rng(seed).integers(0, vocab, (rows, length)).astype(np.int32)
