"""Connections: idle and slow ones are cut off, a thousand of them hold nobody up, one too many is told so."""

import contextlib
import http.client
import socket
import time

import pytest

from tests.train.serving.servers import serving, wait_until


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
