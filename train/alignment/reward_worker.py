"""The process that runs a reward or a tool: an answer on each line of its input, its value on each of its output."""

import difflib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from train.alignment.answers import judge

RewardFunction = Callable[[str, str, Mapping[str, Any]], float]


def _exact(prompt: str, answer: str, fields: Mapping[str, Any]) -> float:
    return float(judge(answer, str(fields["answer"])).strict)


def _lenient(prompt: str, answer: str, fields: Mapping[str, Any]) -> float:
    return float(judge(answer, str(fields["answer"])).lenient)


def _regex(prompt: str, answer: str, fields: Mapping[str, Any]) -> float:
    return float(re.search(str(fields["answer"]), answer) is not None)


def _similarity(prompt: str, answer: str, fields: Mapping[str, Any]) -> float:
    return difflib.SequenceMatcher(None, answer, str(fields["answer"]), autojunk=False).ratio()


def _math(prompt: str, answer: str, fields: Mapping[str, Any]) -> float:
    from math_verify import parse, verify  # extra "math"

    right = str(fields["answer"])
    marked = "$" in right or "\\boxed" in right  # without LaTeX's marks it is a formula as a whole
    return float(verify(parse(right if marked else f"${right}$"), parse(answer)))


def _reasoning_gym(prompt: str, answer: str, fields: Mapping[str, Any]) -> float:
    from reasoning_gym import get_score_answer_fn  # extra "reasoning"

    score: float = get_score_answer_fn(fields["metadata"]["source_dataset"])(answer, dict(fields))
    return score


NAMED: dict[str, RewardFunction] = {
    "exact": _exact,
    "lenient": _lenient,
    "regex": _regex,
    "similarity": _similarity,
    "math": _math,
    "reasoning_gym": _reasoning_gym,
}
# The module that a named function needs, and the extra that has it.
NEEDS = {"math": ("math_verify", "math"), "reasoning_gym": ("reasoning_gym", "reasoning")}


def _check_installed(needed: str, extra: str) -> None:
    if importlib.util.find_spec(needed) is None:
        raise ImportError(f"it needs {needed.replace('_', '-')}; pip install -e '.[{extra}]'")


def find(function: str) -> Callable[[str, str, Mapping[str, Any]], Any]:
    """The function of a name, or of FILE.py:FUNCTION."""
    if function in NAMED:
        if function in NEEDS:
            _check_installed(*NEEDS[function])
        return NAMED[function]
    file, _, name = function.rpartition(":")
    spec = importlib.util.spec_from_file_location("reward_functions", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: Callable[[str, str, Mapping[str, Any]], Any] = getattr(module, name)
    return found


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"a tool returns a text or None, got {type(value).__name__}")
    return value


CONVERTERS: dict[str, Callable[[Any], Any]] = {"reward": float, "tool": _text}


def main(name: str, kind: str) -> None:
    """Answers until the input ends. What the function prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        function = find(name)
    except ImportError as error:
        answer({"error": str(error)})
        return
    except Exception as error:
        answer({"error": f"raised {type(error).__name__}: {error}"})
        return
    convert = CONVERTERS[kind]
    answer({"ready": True})
    for line in sys.stdin:
        given = json.loads(line)
        try:
            answer({"value": convert(function(given["prompt"], given["answer"], given["fields"]))})
        except Exception as error:
            answer({"error": f"raised {type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
