import os

import pytest

from model.errors import UserError
from train.data.text.units import Unit, file_version, printable, refuse_changed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a b.txt", "a b.txt"),
        ("été\u3000日本.txt".encode(), "été\u3000日本.txt"),
        (b"caf\xe9.txt", r"caf\xe9.txt"),
        (b"two\nlines\x1b[31m", r"two\nlines\x1b[31m"),
        ("line\u2028\u0085".encode(), r"line\u2028\x85"),
        ("a\u202etxt.exe".encode(), r"a\u202etxt.exe"),
    ],
)
def test_names_print_and_encode_whatever_their_bytes(name, shown):
    assert printable(os.fsdecode(name)) == shown
    assert printable(os.fsdecode(name)).encode("utf-8")


def test_a_name_that_no_file_can_have():
    assert printable("\ud800") == r"\ud800"


def test_a_changed_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    unit = Unit("text", str(path), "a.txt", 0, 3, 0, 3, "text", file_version(str(path)))
    refuse_changed(unit)
    path.write_text("four")
    with pytest.raises(UserError, match=r"a\.txt has changed since the text was listed; give the command again"):
        refuse_changed(unit)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.txt cannot be read: No such file"):
        refuse_changed(unit)
