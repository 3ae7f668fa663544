"""Published models by name have the published numbers of parameters."""

import math

import jax
import pytest

from model.cost import count_parameters
from model.errors import UserError
from model.families.sizes import SIZES, published
from model.parameters.specs import is_trained, partition
from model.transformer import abstract_params, specs
from tests.parity.sizes import ACTIVE, PUBLISHED, active, total
from tests.tiers import representatives

# Counted by hand, where no exact count is published.
COUNTED = {
    "grok-1": 315_684_820_992,  # its publishers say 314 billion and give no exact number
    # Embeddings, 61 layers of attention and norms, one dense layer, 60 of 384 experts, a shared one, and routers.
    "kimi-k2": (
        2 * 163_840 * 7168
        + 7168
        + 61 * (7168 * 1536 + 1536 + 1536 * 64 * 192 + 7168 * 576 + 512 + 512 * 64 * 256 + 64 * 128 * 7168 + 2 * 7168)
        + 3 * 7168 * 18_432
        + 60 * (385 * 3 * 7168 * 2048 + 384 * 7168 + 384)
    ),
    "gpt3-small": 125_226_240,
    "gpt3-medium": 355_871_744,
    "gpt3-large": 760_300_032,
    "gpt3-xl": 1_517_123_584,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_936_488_380,
    "gpt3-175b": 174_604_259_328,
    # Table 3 of the paper says 65M and 213M, with an encoder and the attention to it.
    "transformer-base": 37_846_016,
    "transformer-big": 113_440_768,
}


def test_every_model_has_a_count_that_is_published_or_by_hand():
    assert set(SIZES) == set(PUBLISHED) | set(COUNTED)
    assert not set(PUBLISHED) & set(COUNTED)


@pytest.mark.parametrize("name", representatives(SIZES, *list(SIZES)[::4]))
def test_all_parameters(name):
    count = total(name)
    assert count == (PUBLISHED | COUNTED)[name]
    assert count == count_parameters(published(name)).total


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name):
    unit = 0.1 if "." in ACTIVE[name] else 1.0
    assert abs(active(name) / 1e9 - float(ACTIVE[name])) < unit


def test_load_biases_are_counted_as_they_are_published():
    """They are state that no optimizer moves, and numbers of the checkpoint, which is what publishers count."""
    trained, untrained = partition(
        abstract_params(published("deepseek-v3")), specs(published("deepseek-v3")), is_trained
    )
    size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(untrained) == 58 * 256
    assert (
        size(trained) + size(untrained) == PUBLISHED["deepseek-v3"] == count_parameters(published("deepseek-v3")).total
    )


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="no published model is called 'llama-2-7c'; did you mean 'llama-2-7b'"):
        published("llama-2-7c")
