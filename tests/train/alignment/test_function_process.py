"""Calls of a function; rewards (test_rewards.py) and tools (test_tool.py) say more."""

import pytest

from train.alignment.function_process import CallError, FunctionProcess


def test_a_call_after_a_failure_is_answered(tmp_path):
    (tmp_path / "own.py").write_text("def half(prompt, answer, fields):\n    return 1 / len(answer)\n")
    call = FunctionProcess(f"{tmp_path / 'own.py'}:half", "reward", "objective.reward", 10.0)
    with pytest.raises(CallError, match="raised ZeroDivisionError"):
        call("p", "", {})
    assert call("p", "abcd", {}) == 0.25
    call.close()
