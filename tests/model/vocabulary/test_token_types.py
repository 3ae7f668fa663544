import numpy as np
import pytest

from model.norms import LayerNorm, normalize
from model.options.tree import find_problems
from model.positions.absolute import Learned
from model.transformer import forward


def test_the_embedding_is_the_norm_of_the_sum_of_tokens_types_and_positions(small, drawn, tokens):
    config = small(token_types=3, position=Learned(), input_norm=LayerNorm())
    params, types = drawn(config), np.random.default_rng(0).integers(0, 3, tokens.shape)
    kept = forward(config, params, tokens, token_types_BT=types, taps=("embedding",)).taps["embedding"]
    table, of_types, of_positions = (params[name]["table"] for name in ("embedding", "token_types", "position"))
    total = np.asarray(table)[tokens] + np.asarray(of_types)[types] + np.asarray(of_positions)[: tokens.shape[1]]
    expected = normalize(LayerNorm(), "float32", 1, total, params["input_norm"]["scale"], params["input_norm"]["bias"])
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-5)
    # Without types, all tokens are of type 0.
    plain = forward(config, params, tokens).logits_BTV
    np.testing.assert_array_equal(plain, forward(config, params, tokens, token_types_BT=0 * types).logits_BTV)


@pytest.mark.parametrize("count", [0, -1])
def test_bad_numbers_of_types(count, small):
    assert any("token_types: must be at least 1" in problem for problem in find_problems(small(token_types=count)))
