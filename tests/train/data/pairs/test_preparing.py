"""From files of pairs to arrays, and what is refused with file and line."""

import numpy as np
import pytest

from model.errors import UserError
from train.data.pairs.preparing import StoredPairs
from train.data.preferences.option import HeldOutPrompts
from train.data.prepare.progress import Reporter


def test_what_is_stored(option, prepared):
    dataset = prepared(option())
    stored = StoredPairs(dataset.folder, "train")
    assert len(stored) == 5
    source, target = stored.sides(3)
    assert dataset.tokenizer.decode(source[:-1]) == "ghij"
    assert dataset.tokenizer.decode(target[:-1]) == "jihg"
    assert source[-1] == target[-1] == dataset.tokenizer.end_of_document
    assert stored.name(3).endswith("pairs.jsonl:4")


def test_a_share_of_the_sources_is_held_out(option, prepared, write):
    rows = [{"source": str(i // 2), "target": f"{i}"} for i in range(40)]
    data = option(path=write(rows), validation=HeldOutPrompts(fraction=0.4))
    dataset = prepared(data)
    sources = {
        split: {
            tuple(StoredPairs(dataset.folder, split).sides(row)[0])
            for row in range(len(StoredPairs(dataset.folder, split)))
        }
        for split in ("train", "validation")
    }
    assert not sources["train"] & sources["validation"]
    assert len(sources["train"]) + len(sources["validation"]) == 20


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "abcdef", "target": "a"}, "line 1: the source has 7 tokens, more than data.source_length=6"),
        ({"source": "a", "target": "abcde"}, "line 1: the target has 6 tokens, more than data.sequence_length=5"),
        ({"source": "a"}, "line 1: 'target' is no such field .its fields are 'source'.; expected a text"),
        ({"source": "", "target": "a"}, "line 1: 'source' is ''; expected a text"),
        ({"source": 3, "target": "a"}, "line 1: 'source' is 3; expected a text"),
    ],
)
def test_what_is_refused(row, message, option, prepared, write):
    with pytest.raises(UserError, match=message):
        prepared(option(path=write([row])))


def test_long_pairs_may_be_dropped(option, prepared, write):
    said = []

    class Said(Reporter):
        def message(self, line):
            said.append(line)

    rows = [{"source": "abcdef", "target": "a"}, {"source": "ok", "target": "ko"}]
    dataset = prepared(option(path=write(rows), too_long="drop"), said=Said())
    assert len(StoredPairs(dataset.folder, "train")) == 1
    assert said[0].startswith("WARNING: 1 pairs of the train split have more tokens than data.source_length=6")
    with pytest.raises(UserError, match="no pair is left for the train split"):
        prepared(option(path=write(rows[:1]), too_long="drop"), "other")


def test_a_damaged_folder_is_named(option, prepared):
    folder = prepared(option()).folder
    (folder / "train.pairs.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="train.pairs.npy is missing or damaged.*delete the folder"):
        StoredPairs(folder, "train")
    assert np.load(folder / "train.ids.npy").dtype == np.int32
