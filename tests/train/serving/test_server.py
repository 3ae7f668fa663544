"""The server's life: a stop lets running requests finish within a bound, and refuses new ones meanwhile."""

import contextlib
import signal
import socket
import threading

import pytest

from model.errors import UserError
from tests.train.generation.engines import FakeEngine
from tests.train.serving.servers import serving, wait_until
from train.serving.server import listen


def finished(connection):
    """All that a server sends until it closes."""
    answer = b""
    while part := connection.recv(1 << 16):
        answer += part
    return answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_finishes_what_runs_and_refuses_what_comes(stream):
    with serving(FakeEngine(seconds=0.01)) as server:
        with server.connection(max_tokens=60, stream=stream) as one:
            wait_until(lambda: server.engine.live)
            server.server.handle_exit(signal.SIGTERM, None)
            wait_until(lambda: server.ask("GET", "/health")[0] == 503)
            status, headers, answer = server.ask("POST", "/v1/completions", {"prompt": "a"})
            assert (status, headers["retry-after"]) == (503, "5")
            assert answer["error"]["message"] == "the server stops; ask another one"
            answer = finished(one)
        assert b'"finish_reason":"length"' in answer
        assert (b"[DONE]" in answer) == stream
        wait_until(lambda: server.server.should_exit)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=5) as late:
            late.settimeout(5)
            assert late.recv(1) == b""


@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_longer_than_the_bound_ends_with_an_error(stream):
    with serving(FakeEngine(seconds=0.05), drain_seconds=0.2) as server:
        with server.connection(max_tokens=60, stream=stream) as one:
            wait_until(lambda: server.engine.live)
            server.server.drain()
            answer = finished(one)
            assert server.engine.statistics.steps < 60, "the text was drawn to its end"
        assert b'"code":"stopping"' in answer.replace(b'": ', b'":')
        assert not server.engine.live


def test_a_second_signal_ends_at_once():
    with serving(FakeEngine(seconds=0.05), drain_seconds=60) as server:
        with server.connection(max_tokens=60):
            wait_until(lambda: server.engine.live)
            for _ in range(2):
                server.server.handle_exit(signal.SIGINT, None)
            wait_until(lambda: not server.engine.live)
            assert server.engine.statistics.steps < 60, "the text was drawn to its end"


def test_an_engine_that_fails_stops_the_server():
    with serving(FakeEngine(seconds=0.01)) as server:
        with server.connection(max_tokens=60) as one:
            wait_until(lambda: server.engine.live)
            server.engine.fails = RuntimeError("lost")
            assert b" 500 " in one.recv(1 << 16)
        wait_until(lambda: server.server.should_exit)


def test_addresses():
    one = listen("127.0.0.1", 0)
    port = one.getsockname()[1]
    with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use; give another"):
        listen("127.0.0.1", port)
    one.close()
    with pytest.raises(UserError, match="--host=no.such.host.invalid is no address of this machine"):
        listen("no.such.host.invalid", 0)


def test_the_loop_tells_when_it_listens():
    from tests.train.serving.servers import Application, EngineWorker, Limits, Server, TextEngine, served

    model, limits, ready = served(), Limits(drain_seconds=0), threading.Event()
    worker = EngineWorker(TextEngine(FakeEngine(), model.tokenizer), 4)
    server = Server(Application(model, worker, limits), worker, limits)
    thread = threading.Thread(target=server.run_on, args=(listen("127.0.0.1", 0), ready.set))
    thread.start()
    assert ready.wait(10)
    server.drain()
    thread.join(10)
    assert not thread.is_alive()
