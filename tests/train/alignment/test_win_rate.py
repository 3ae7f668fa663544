"""Win rates by hand, and of two runs on a few prompts."""

import json

import numpy as np
import pytest

from model.errors import UserError
from train.alignment.win_rate import read_prompts, table, win_rate_of


def test_a_rate_by_hand():
    found = win_rate_of("right answers", [1, 1, 0, 1], [0, 1, 1, 0])
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.rate == 2.5 / 4
    assert found.preference.mean == found.difference.mean == 0.25
    half = 3.182446 * np.std([1, 0, -1, 1], ddof=1) / 2
    numbers = found.as_json()
    assert numbers["win_rate_low"] == pytest.approx(max(0, (1 + 0.25 - half) / 2), rel=1e-5)
    assert numbers["win_rate_high"] == pytest.approx(min(1, (1 + 0.25 + half) / 2), rel=1e-5)
    scored = win_rate_of("runs/reward", [0.5, 3.0], [0.25, -1.0])
    assert (scored.rate, scored.difference.mean) == (1.0, 2.125)
    assert "win rate    100.0%" in table(scored, "a", "b")
    assert json.loads(json.dumps(scored.as_json()))["prompts"] == 2
    with pytest.raises(UserError, match="expected at least two prompts, got 1"):
        win_rate_of("x", [1.0], [0.0])
    with pytest.raises(UserError, match="prompt 2 has a judgement that is not finite"):
        win_rate_of("x", [1.0, float("nan")], [0.0, 0.0])


def test_prompts_need_no_answers(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "hi"}\n{"prompt": [{"role": "user", "content": "ho"}], "answer": "x"}\n')
    found = read_prompts(str(path))
    assert [one.messages[0]["content"] for one in found] == ["hi", "ho"]
    assert [one.answer for one in found] == ["", ""]
    path.write_text('{"question": "hi"}\n')
    with pytest.raises(UserError, match="line 1: expected a field 'prompt'; its fields are 'question'"):
        read_prompts(str(path))
