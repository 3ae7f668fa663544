"""A server that the tests of a package share: what one test asks does not change the answers to another."""

import pytest

from tests.train.serving.servers import serving


@pytest.fixture(scope="package")
def running():
    """A running server of a model without parameters."""
    with serving() as server:
        yield server
