from typing import Literal

import pytest

from model.options.words import describe, format_value, misspelt, nearest
from tests.model.carts import Ski, Wheel


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "int or None"),
        (Literal["red", "blue"], "'red' or 'blue'"),
        (tuple[float, ...], "a tuple of float"),
        (Wheel | Ski, "Wheel(...) or Ski(...)"),
        (str | tuple[str, ...], "str or a tuple of str"),
    ],
)
def test_describe(annotation, words):
    assert describe(annotation) == words


def test_nearest_names_the_closest_word_or_lists_all():
    assert nearest("radus", ["spokes", "radius"]) == "did you mean 'radius'?"
    assert nearest("zzz", ["spokes", "radius"]) == "known: radius, spokes"
    assert nearest("zzz", []) == "known: none"


KNOWN = ("falcon", "gemma3", "glm4", "gpt_neox", "grok-1", "llama", "mamba2", "mixtral", "olmo", "opt", "phi3", "qwen2")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[("LLaMA", "llama"), ("gpt-neox", "gpt_neox"), ("grok1", "grok-1"), ("Qwen-2", "qwen2")],
        *[("lama", "llama"), ("llamma", "llama"), ("mixtrl", "mixtral"), ("falcno", "falcon")],
        # other models, which exist
        *[(other, None) for other in ("mllama", "llada", "mamba", "molmo", "mpt", "phi", "phi4", "qwen", "qwen3")],
        *[(other, None) for other in ("gemma4", "glm4v", "olmoe", "")],
    ],
)
def test_a_misspelling_is_told_from_another_name(name, meant):
    assert misspelt(name, KNOWN) == meant


def test_shown_is_never_long():
    assert format_value("x" * 1000) == f"'{'x' * 159}... (1,002 characters)"
    assert format_value(10**5000) == "a number of thousands of digits"
