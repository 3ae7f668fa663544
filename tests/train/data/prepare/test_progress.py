import io

import pytest

from train.data.prepare import progress
from train.data.prepare.progress import Reporter, StageProgress, TerminalReporter


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_rates_count_the_work_of_this_run_alone(clock):
    stage = StageProgress()
    stage.advance(bytes=6_000_000, documents=10, tokens=0, resumed=True)
    clock[0] += 2.0
    stage.advance(bytes=4_000_000, documents=20, tokens=1_000_000, encoded=3_000_000)
    assert stage.seconds() == 2.0
    assert stage.rates() == {
        "documents_per_second": 15.0,
        "tokens_per_second": 500_000.0,
        "MB_per_second": 2.0,
        "bytes_per_token": 3.0,
    }


def test_before_the_first_token_only_the_reading_has_a_rate(clock):
    stage = StageProgress()
    clock[0] += 4.0
    stage.advance(bytes=2_000_000)
    assert stage.rates() == {"MB_per_second": 0.5}


def test_the_plain_reporter_is_silent(capsys):
    reporter = Reporter()
    with reporter.stage("tokenize", 3_000_000) as stage:
        stage.advance(bytes=3_000_000)
    reporter.message("a line")
    assert capsys.readouterr() == ("", "")
    assert stage.bytes == 3_000_000


def test_elsewhere_than_on_a_terminal_a_stage_ends_with_a_line_in_megabytes():
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    reporter.message("a line")
    with reporter.stage("tokenize", 2_500_000) as stage:
        stage.advance(bytes=1_000_000, resumed=True)
        stage.advance(bytes=1_500_000, documents=2, tokens=500_000, encoded=1_500_000)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "a line"
    assert "tokenize, MB" in lines[-1]
    assert "3/3" in lines[-1]
    assert "1 MB" in lines[-1]  # done before


def test_a_stage_of_unknown_size_is_one_step():
    stream = io.StringIO()
    with TerminalReporter(stream).stage("compare", 0) as stage:
        stage.advance(bytes=5)
    assert "1/1" in stream.getvalue().splitlines()[-1]
