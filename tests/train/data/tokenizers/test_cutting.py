"""The positions where a text is cut into parts."""

from hypothesis import given
from hypothesis import strategies as st

from train.data.tokenizers.cutting import cut


@given(text=st.text("ab ", max_size=60), size=st.integers(1, 9))
def test_parts_are_cut_at_safe_places_and_only_there(text, size):
    parts = list(cut(text, size, lambda before, after: before != " " and after == " "))
    assert "".join(parts) == text
    assert all(part.startswith(" ") for part in parts[1:])
    assert all(len(part) <= size or " " not in part[1:].lstrip(" ") for part in parts[:-1])
