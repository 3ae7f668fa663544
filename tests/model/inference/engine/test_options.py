"""Options of an engine that are refused."""

import pytest

from model.errors import UserError
from model.inference.engine.options import EngineOptions
from model.inference.engine.speculation import Modules
from model.options.tree import check


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rows=0), "engine.rows: must be at least 1"),
        (dict(page_size=0), "engine.page_size: must be at least 1"),
        (dict(rows=8, tokens_per_step=8), "engine.tokens_per_step: must be more than rows=8"),
        (dict(cache_tokens=3), "engine.cache_tokens: must be at least the 16 tokens of a page"),
        (dict(source_tokens=0), "engine.source_tokens: must be at least 1, or None for the encoder's length, got 0"),
        (dict(max_logprobs=-1), "engine.max_logprobs: must be 0 or more"),
        (
            dict(invariant=True, speculation=Modules()),
            r"engine.speculation: Modules\(\) fills the caches .* take NGram\(\) or Draft\(\), or set invariant=False",
        ),
    ],
)
def test_invalid_sizes_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        check(EngineOptions(**options), "engine")


def test_the_defaults_are_valid():
    check(EngineOptions(), "engine")
