import jax
import numpy as np
import pytest

from model.errors import UserError
from model.feedforward.mlp import MLP
from model.transformer import abstract_params, forward
from model.vocabulary.multi_token import MultiToken


def test_the_modules_run_in_training_alone(small):
    """A compiled program is given no parameters that it does not read."""
    config, tokens = small(multi_token=MultiToken(depth=3), scan_layers=False), np.ones((2, 12), np.int32)
    program = jax.jit(lambda p, t: forward(config, p, t).logits_BTV).lower(abstract_params(config), tokens).as_text()
    arguments = program.partition("@main(")[2].partition("{\n")[0]
    assert arguments.count("%arg") == len(jax.tree.leaves(abstract_params(small()))) + 1


def test_tokens_that_count_need_targets(small, drawn, tokens):
    config = small(multi_token=MultiToken(), ffn=MLP(width=8))
    with pytest.raises(UserError, match="got weights_BT without targets_BT; give targets_BT too"):
        forward(config, drawn(config), tokens, weights_BT=np.ones(tokens.shape))
