import random

import numpy as np
import pytest

from model.errors import UserError
from train.data.shards.shards import RECORD_TOKENS, ShardReader, ShardWriter


@pytest.fixture
def written(tmp_path):
    writer = ShardWriter(tmp_path / "a.array_record", 1000)
    documents = [np.arange(n) % 1000 for n in (5, 3 * RECORD_TOKENS + 1, 0, 7)]
    for k, tokens in enumerate(documents):
        writer.write(f"doc{k}", tokens, 2 * len(tokens), 1)
    assert not (tmp_path / "a.array_record").exists()
    shard, table = writer.finish()
    return tmp_path, shard, table, documents


def test_writing_cuts_long_documents_and_counts(written):
    folder, shard, table, documents = written
    assert (shard.records, shard.documents, shard.tokens, shard.bytes, shard.words) == (6, 3, 24_589, 49_178, 3)
    assert table["record"].tolist() == [0, 1, 5]
    assert table["tokens"].tolist() == [5, 3 * RECORD_TOKENS + 1, 7]
    reader = ShardReader(folder, [shard])
    assert [reader.read(k).name for k in range(6)] == ["doc0", "doc1", "doc1", "doc1", "doc1", "doc3"]
    assert np.concatenate([reader.read(k).tokens for k in range(1, 5)]).tolist() == documents[1].tolist()


def test_the_same_documents_give_the_same_bytes(written, tmp_path):
    folder, shard, _, documents = written
    writer = ShardWriter(tmp_path / "b.array_record", 1000)
    for k, tokens in enumerate(documents):
        writer.write(f"doc{k}", tokens, 2 * len(tokens), 1)
    assert writer.finish()[0].sha256 == shard.sha256
    assert [p.name for p in folder.iterdir() if "part" in p.name] == []


def test_cache_keeps_to_its_size(written):
    folder, shard, _, _ = written
    reader = ShardReader(folder, [shard], cache_bytes=2 * RECORD_TOKENS * 2)
    for k in (0, 1, 2, 3, 4, 5, 1):
        reader.read(k)
    assert sum(r.tokens.nbytes for r in reader._cache.values()) <= 2 * RECORD_TOKENS * 2
    assert reader.read(5) is reader.read(5)


def test_loading_together_reads_the_same(written, monkeypatch):
    folder, shard, _, _ = written
    one, together = ShardReader(folder, [shard]), ShardReader(folder, [shard])
    together.load([5, 0, 2, 0])
    monkeypatch.setattr(together, "_read_bytes", None)
    for k in (0, 2, 5):
        assert together.read(k).tokens.tolist() == one.read(k).tokens.tolist()


def test_truncated_missing_and_corrupted_shards_are_named(written):
    folder, shard, _, _ = written
    path = folder / shard.file
    intact = path.read_bytes()
    path.write_bytes(intact[:-1])
    with pytest.raises(
        UserError, match=rf"a.array_record is truncated: {len(intact) - 1} bytes, expected {len(intact)}"
    ):
        ShardReader(folder, [shard])
    path.unlink()
    with pytest.raises(UserError, match=r"a.array_record is missing"):
        ShardReader(folder, [shard])
    damaged = bytearray(intact)
    # The third record of the long document, found by a stretch of its tokens.
    stretch = (np.arange(2 * RECORD_TOKENS + 50, 2 * RECORD_TOKENS + 90) % 1000).astype("<u2").tobytes()
    at = intact.index(stretch, 2 * 2 * RECORD_TOKENS)
    damaged[at] ^= 255
    path.write_bytes(bytes(damaged))
    reader = ShardReader(folder, [shard])
    assert reader.read(1).name == "doc1"
    reader.load([0, 3, 4])  # does not raise: reading the record does
    with pytest.raises(
        UserError, match=r"a.array_record, record 3 of 6, is damaged: .*at byte \d+.*prepare the data again"
    ):
        reader.read(3)
    assert reader.read(5).name == "doc3"


def test_a_shard_that_cannot_be_read_is_not_damaged(written, monkeypatch):
    """Neither where the system refuses to read, nor where the library fails with an intact file, is damage reported."""
    folder, shard, _, _ = written
    reader = ShardReader(folder, [shard])

    def fail(number):
        raise RuntimeError("a bug of the library")

    monkeypatch.setattr(reader, "_open_shard", fail)
    with pytest.raises(UserError, match=r"^cannot read .*a.array_record: a bug of the library; nothing was changed"):
        reader.read(0)
    (folder / shard.file).unlink()
    (folder / shard.file).symlink_to(shard.file)  # a loop, which nobody can open, root neither
    with pytest.raises(UserError, match=r"^cannot read .*a.array_record: Too many levels .*; nothing was changed"):
        reader.read(0)
    with pytest.raises(UserError, match=r"^cannot read .*a.array_record: Too many levels .*; nothing was changed"):
        ShardReader(folder, [shard])


def test_no_flipped_byte_of_a_shard_is_read_as_other_tokens(written):
    """Wherever the damage is, in records or between them: the error names the file, or the tokens are right."""
    folder, shard, _, documents = written
    path = folder / shard.file
    intact = path.read_bytes()
    cut = [documents[1][k : k + RECORD_TOKENS] for k in range(0, len(documents[1]), RECORD_TOKENS)]
    draw, used, told = random.Random(0), [at for at, byte in enumerate(intact) if byte], []
    for at in used[:150] + used[-150:] + draw.choices(used, k=60) + draw.choices(range(len(intact)), k=20):
        damaged = bytearray(intact)
        damaged[at] ^= draw.choice([1, 16, 255])
        path.write_bytes(bytes(damaged))
        try:
            found = [ShardReader(folder, [shard]).read(k).tokens for k in range(shard.records)]
        except UserError as error:
            told.append(str(error))
        else:
            for tokens, expected in zip(found, [documents[0], *cut, documents[3]], strict=True):
                assert np.array_equal(tokens, expected), at
    assert len(told) > 200
    assert all(f"{path}, record " in text for text in told)
