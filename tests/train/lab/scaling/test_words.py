"""The fits as text."""

from tests.train.lab.scaling.analyses import full_analysis
from train.lab.scaling.words import BIAS, describe, table


def test_tables_are_aligned():
    assert table([("name", "a", "bb"), ("x", "10.5", "")]) == ["  name     a  bb", "  x     10.5"]


def test_the_text_says_it_all():
    found = full_analysis()
    text = describe(found)
    assert text.startswith(
        "L(N, D) = E + A / N^alpha + B / D^beta, 15 runs; intervals of 95% from 60 fits of drawn noise"
    )
    assert f"{found.law.surface.alpha:.4g}" in text
    for name, n, _ in found.approaches():
        assert f"approach {name}" in text
        assert n is not None
    assert BIAS in text
    assert f"its D* at 1e+22 is {found.biases[1]:.3f} of the true one" in text
    assert "c1e21-n2.56B: 2.8000 [2.7500, 2.8500]; measured 2.9000" in text
    assert text.count("WARNING: ") == len(list(found.warnings()))
    assert max(map(len, text.splitlines())) < 140
