"""The record of a lesson: what was done, and of which form of the lesson."""

import pytest

from model.errors import UserError
from train.course import folder
from train.course.folder import Record


def test_a_record_is_read_as_it_was_written(tmp_path):
    here = tmp_path / "first"
    assert folder.read(here) is None
    record = folder.begin(here, "abc")
    assert (record, record.seconds) == (Record("abc"), 0)
    record.done["launch.train"] = 2.5
    record.numbers = [1.0]
    record.save(here)
    assert folder.begin(here, "abc") == record
    assert record.seconds == 2.5


def test_the_folder_of_another_form_of_the_lesson_is_refused(tmp_path):
    folder.begin(tmp_path, "abc").save(tmp_path)
    with pytest.raises(UserError, match="made by another form of this lesson"):
        folder.begin(tmp_path, "def")
    assert folder.digest("one") != folder.digest("two")


@pytest.mark.parametrize("content", ["{", '{"format": 1}', '{"format": 2, "lesson": "abc"}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / folder.FILE).write_text(content)
    with pytest.raises(UserError, match=r"lesson\.json"):
        folder.read(tmp_path)
