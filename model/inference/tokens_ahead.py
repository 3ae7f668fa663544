"""The modules of multi-token prediction (model/vocabulary/multi_token.py) after a pass of the layers, as a function."""

from typing import Any

import jax

from model.config import ModelConfig
from model.context import Context, Rows
from model.layout import ONE_DEVICE, Layout
from model.token_positions import inputs_of_rows
from model.transformer import Params, model_of
from model.vocabulary.multi_token_modules import run_module


def tokens_ahead(
    config: ModelConfig,
    params: Params,
    number: int,
    x_BTD: jax.Array,
    tokens_BT: jax.Array,
    *,
    positions_BT: jax.Array,
    cache: Any,
    lengths_B: jax.Array,
    text_lengths_B: jax.Array,
    layout: Layout = ONE_DEVICE,
) -> tuple[jax.Array, jax.Array, Any]:
    """Runs module `number` on the stream after the last layer, or after the module before it; see `run_module`.

    The other arguments are those of `model.transformer.stream`. The logits of the second result are of the token
    `number` + 2 places after each.
    """
    rows = Rows(tokens_BT, positions_BT, lengths_B=lengths_B, text_lengths_B=text_lengths_B)
    context = Context(**inputs_of_rows(config, rows, cached=True), layout=layout, kernels=config.kernels)
    model = model_of(config, params)
    assert model.multi_token is not None, "a model with modules"
    context = context.with_shared_bias(model.position_bias)
    return run_module(config, model.multi_token, model.embedding, number, x_BTD, tokens_BT, context, cache)
