"""The arrays on the disk, and damage to them."""

import numpy as np
import pytest

from model.errors import UserError
from train.data.preferences.reading import Preference
from train.data.preferences.rendering import Rendered
from train.data.preferences.stored import StoredPreferences, Writer
from train.files.files import write_json


def write(folder, ids=(1, 2, 3)):
    writer = Writer()
    counted = np.arange(len(ids)) > 0
    row = Preference(prompt="", answers=("", ""), margin=2.5, name="a:b.jsonl:7", where="")
    writer.add(
        row, [Rendered(np.array(ids, np.int32), counted, 1), Rendered(np.array(ids[:2], np.int32), counted[:2], 1)]
    )
    writer.write(folder, "train")
    write_json(folder / "preferences.json", {"train": writer.files})
    return StoredPreferences(folder, "train", 2)


def test_rows_come_back(tmp_path):
    stored = write(tmp_path)
    assert (stored.num_rows, list(stored.entries(0)), stored.name(0)) == (1, [0, 1], "a:b.jsonl:7")
    np.testing.assert_array_equal(stored.sequence(0)[0], [1, 2, 3])
    np.testing.assert_array_equal(stored.sequence(1)[1], [False, True])
    assert stored.answers["targets"].tolist() == [2, 1]
    assert stored.answers["label"].tolist() == [True, False]
    assert stored.answers["margin"].tolist() == [2.5, 2.5]


def test_a_fingerprint_is_that_of_the_tokens(tmp_path):
    one, same, other = (tmp_path / name for name in "abc")
    for folder in (one, same, other):
        folder.mkdir()
    first = write(one).fingerprint
    assert write(same).fingerprint == first
    assert write(other, (1, 2, 4)).fingerprint != first


def test_damage_is_named(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "train.ids.npy", np.zeros(4, np.int32))
    with pytest.raises(UserError, match="the arrays of train do not fit together; delete the folder"):
        StoredPreferences(tmp_path, "train", 2)
    (tmp_path / "train.ids.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"train.ids.npy is missing or damaged"):
        StoredPreferences(tmp_path, "train", 2)
