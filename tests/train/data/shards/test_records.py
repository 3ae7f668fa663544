import numpy as np
import pytest

from train.data.shards import records
from train.data.shards.records import DamagedRecordError, Record


@pytest.mark.parametrize(("vocab_size", "width"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_record_round_trip_in_the_smallest_type(vocab_size, width):
    tokens = np.array([0, 1, vocab_size - 1])
    content = records.pack(Record("näme.py", 8192, 9000, tokens), records.token_bytes(vocab_size))
    record = records.unpack(content)
    assert (record.name, record.offset, record.document_tokens) == ("näme.py", 8192, 9000)
    assert record.tokens.itemsize == width
    assert record.tokens.tolist() == tokens.tolist()


@pytest.mark.parametrize("at", [0, 5, 9, 20, 30, 40, -1])
def test_every_flipped_byte_is_noticed(at):
    content = bytearray(records.pack(Record("name", 0, 100, np.arange(100)), 2))
    content[at] ^= 1
    with pytest.raises(DamagedRecordError):
        records.unpack(bytes(content))
    with pytest.raises(DamagedRecordError, match="too few"):
        records.unpack(b"CRN1")
