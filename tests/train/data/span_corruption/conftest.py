"""The corpus of bytes with spans taken out."""

import pytest

from train.data.config import Bytes, HeldOutDocuments
from train.data.span_corruption.option import SpanCorruption


@pytest.fixture(scope="session")
def option(corpus):
    """Options over the corpus: bytes with an end of document, sources of at most 32 tokens."""
    return SpanCorruption(
        path=str(corpus),
        tokenizer=Bytes(),
        validation=HeldOutDocuments(fraction=0.1),
        source_length=32,
        batch_size=4,
        prefetch=2,
    )
