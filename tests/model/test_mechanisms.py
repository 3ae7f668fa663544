"""The table of mechanisms and of their reference tests, tests/parity/mechanisms.py, is complete."""

import pathlib

from tests.model.test_liveness import reachable
from tests.parity.mechanisms import REFERENCES, kinds, rows

TESTS = pathlib.Path(__file__).parent.parent


def test_every_mechanism_is_compared_with_something():
    assert set(REFERENCES) == {cls.__name__ for cls in reachable()} - {"ModelConfig"}


def test_what_the_table_names_is_there():
    for _, where in REFERENCES.values():
        file, name = where.split("::")
        assert f"\ndef {name}(" in (TESTS / file).read_text(), where


def test_rows(small):
    table = {row[0]: row for row in rows()}
    assert table["`Chunked`"][4:] == ("yes", 1)  # Llama 4
    assert table["`BlockSparse`"][4:] == ("yes", "")
    assert table["`MultiToken`"][2:] == (2, "equations, a token at a time: " + REFERENCES["MultiToken"][1], "", "")
    assert kinds(small()) == {
        "ModelConfig",
        "Kernels",
        "GroupedQuery",
        "Everything",
        "Gated",
        "Rotary",
        "RMSNorm",
        "PreNorm",
        "Tied",
    }
