"""Connections: idle and slow ones are cut off, a thousand of them hold nobody up, one too many is told so."""

import collections
import contextlib
import http.client
import json
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from tests.tiers import SWEEP
from tests.train.generation.engines import FakeEngine
from tests.train.serving.servers import served, serving, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[3]


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_connections_that_send_no_request_are_cut_off():
    with serving(header_seconds=0.3) as server:
        idle, slow, again = connect(server.port), connect(server.port), connect(server.port)
        slow.sendall(b"GET /health HTTP/1.1\r\nhost: local")
        again.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /heal")  # a second one that does not come
        answer = b""
        while not answer.endswith(b"ok\n"):
            answer += again.recv(1 << 16)
        for one in (idle, slow, again):
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
            one.close()
        wait_until(lambda: not server.server.server_state.connections)


def test_a_connection_serves_many_requests():
    with serving(header_seconds=0.5) as server:
        one = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for _ in range(6):
            one.request("POST", "/tokenize", '{"prompt": "a"}', {"content-type": "application/json"})
            assert one.getresponse().read()
            time.sleep(0.12)  # in all more than the time for one request
        one.close()


@pytest.mark.parametrize("count", [300, pytest.param(4000, marks=pytest.mark.sweep)])
def test_many_idle_connections_hold_nobody_up(count):
    with serving() as server, contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(server.port))
        wait_until(lambda: len(server.server.server_state.connections) >= count, 60)
        assert server.post("/v1/completions", prompt="abc", max_tokens=4)[1]["choices"][0]["text"] == "defg"


@pytest.mark.parametrize(
    ("count", "most"), [(60, 40), pytest.param(10_000, 4_000, marks=SWEEP), pytest.param(10_000, 20_000, marks=SWEEP)]
)
def test_a_crowd_is_served_or_told_to_come_again(count, most):
    """All ask at once: a connection too many gets 503, a text too many 429, and the others their texts."""
    with serving(FakeEngine(rows=16), connections=most, header_seconds=120.0) as server:
        program = [sys.executable, "-m", "tests.train.serving.crowd", str(server.port), str(count)]
        done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=500, check=True)
        said = collections.Counter(json.loads(done.stdout))
        served = said.pop("HTTP/1.1 200 OK defg")
        full = said.pop("HTTP/1.1 503 Service Unavailable, retry-after", 0)
        queue_full = said.pop("HTTP/1.1 429 Too Many Requests, retry-after", 0)
        assert not said
        assert (served + full + queue_full, full) == (count, max(0, count - most))
        assert served >= min(count, most) / 2
        wait_until(lambda: not server.server.server_state.connections)
        assert server.worker.num_unfinished == 0
        assert server.post("/v1/completions", prompt="abc", max_tokens=4)[1]["choices"][0]["text"] == "defg"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_reads_byte_by_byte_holds_nobody_up_and_is_cut_off(stream):
    with serving(FakeEngine(per_step=50), served(context=4_000), request_seconds=1.0, header_seconds=0.5) as server:
        size = {"n": 40, "max_tokens": 3_000, "stream": stream, "logprobs": 2}
        with server.connection(**size) as slow:
            wait_until(lambda: server.worker.num_unfinished)
            assert slow.recv(1) == b"H"
            end = time.monotonic() + 20
            while server.server.server_state.connections:
                assert time.monotonic() < end, "it holds its connection"
                with contextlib.suppress(ConnectionError):
                    slow.recv(1)
                time.sleep(0.05)
            assert server.post("/v1/completions", prompt="abc", max_tokens=4)[1]["choices"][0]["text"] == "defg"
        wait_until(lambda: server.worker.num_unfinished == 0)


def test_one_connection_too_many_is_told_so():
    with serving(connections=2) as server:
        with connect(server.port), connect(server.port):
            wait_until(lambda: len(server.server.server_state.connections) == 2)
            with connect(server.port) as third:
                answer = b""
                while part := third.recv(1 << 16):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert answer.endswith(b"this server has too many connections")
        wait_until(lambda: not server.server.server_state.connections)
        assert server.ask("GET", "/health")[0] == 200


def test_input_that_is_no_http(running):
    with connect(running.port) as one:
        one.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b" 400 " in one.recv(1 << 16)
