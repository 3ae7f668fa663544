import pytest

from model.errors import UserError
from tests.train.data.conftest import change, prose
from train.data import (
    Bytes,
    Characters,
    Data,
    TokenizerOf,
    prepare,
)


def test_errors_cross_from_worker_processes(tmp_path, small_shards):
    text = tmp_path / "t"
    text.mkdir()
    for k in range(5):
        (text / f"{k}.txt").write_bytes(prose(k, 3000).encode())
    data = Data(path=str(text), tokenizer=Characters(), validation=None)
    prepare(data, tmp_path / "d1", workers=2)
    (text / "3.txt").write_bytes(b"ab\xff")
    bad = change(data, tokenizer=Bytes())
    with pytest.raises(UserError, match=r"3.txt is not UTF-8 at byte 2"):
        prepare(bad, tmp_path / "d2", workers=2)
    (text / "3.txt").write_text("aZ")
    with pytest.raises(UserError, match=r"3.txt: character 'Z'"):
        prepare(change(data, tokenizer=TokenizerOf(path=str(tmp_path / "d1"))), tmp_path / "d3", workers=2)
