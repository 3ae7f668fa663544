"""Answers to many clients: none waits for a slow one, one that leaves is forgotten, limits end what takes too long."""

import asyncio
import json
import random
import socket
import threading
import time
import types

import pytest

from tests.train.generation.engines import FakeEngine
from tests.train.serving.servers import served, serving, wait_until
from train.serving.answers import _EventStream


def test_a_client_that_leaves_takes_its_texts_along():
    with serving(FakeEngine(seconds=0.01, context=10_000)) as server:
        for stream in (False, True):
            with server.connection(max_tokens=60, stream=stream, n=3, ignore_eos=True) as one:
                wait_until(lambda: len(server.engine.live) == 3)
                if stream:
                    assert one.recv(5).startswith(b"HTTP")
            wait_until(lambda: not server.engine.live and server.worker.num_unfinished == 0)
        steps = server.engine.statistics.steps
        assert steps < 60, "the texts were drawn to their end"


def test_a_client_that_leaves_while_it_waits_for_its_turn_never_runs():
    with serving(FakeEngine(seconds=0.01, rows=1)) as server:
        with server.connection(max_tokens=50), server.connection(prompt="q", max_tokens=1):
            wait_until(lambda: len(server.engine.live) == 2)
        wait_until(lambda: not server.engine.live)


def test_the_queue_is_full():
    with serving(FakeEngine(seconds=0.02), waiting=0) as server:
        with server.connection(max_tokens=60, n=4):
            wait_until(lambda: server.worker.num_unfinished == 4)
            status, headers, answer = server.ask("POST", "/v1/completions", {"prompt": "a"})
            assert (status, headers["retry-after"]) == (429, "5")
            assert answer["error"]["message"].startswith("too many requests: 4 texts are unfinished, and 1 more exceed")
            assert answer["error"]["type"] == "rate_limit_error"
        wait_until(lambda: server.worker.num_unfinished == 0)
        assert server.post("/v1/completions", prompt="a", n=4)[0] == 200
        error = server.error(prompt="a", n=5)
        assert error["message"] == "the request asks for 5 texts at once; this server holds 4"


def test_an_answer_that_takes_too_long_is_ended():
    with serving(FakeEngine(seconds=0.05), request_seconds=0.2) as server:
        error = server.error(status=504, prompt="a", max_tokens=60)
        assert error["message"] == "the answer took longer than 0.2 s, the limit of this server"
        with server.connection(max_tokens=60, stream=True) as one:
            answer = one.recv(1 << 16)
            while b"0\r\n\r\n" not in answer:
                answer += one.recv(1 << 16)
            assert b"the answer took longer than" in answer
            assert b"[DONE]" not in answer
        wait_until(lambda: not server.engine.live)


def test_the_engine_refuses_and_fails():
    with serving(FakeEngine(context=3, seconds=0.02)) as server:
        for stream in (False, True):  # before a stream begins
            error = server.error(prompt="abcd", max_tokens=1, stream=stream)
            assert (error["code"], error["message"]) == ("does_not_fit", "the prompt has 5 tokens; 3 fit")
    with serving(FakeEngine(seconds=0.02), drain_seconds=0) as server:
        with server.connection(max_tokens=60, stream=True) as one:
            wait_until(lambda: server.engine.live)
            server.engine.fails = RuntimeError("device lost")
            answer = b""
            while part := one.recv(1 << 16):
                answer += part
        assert b"the engine failed: RuntimeError" in answer


class FullSocket:
    """A client that asks for a stream and reads none of it, with little room in its socket."""

    def __init__(self, port, **body):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        self.socket.connect(("127.0.0.1", port))
        content = json.dumps({"prompt": "a", "stream": True, **body})
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self.socket.sendall((head + content).encode())


def test_a_client_that_does_not_read_holds_nobody_up_and_is_cut_off(caplog):
    with serving(FakeEngine(context=5000), served(context=5000), request_seconds=0.7, header_seconds=2.0) as server:
        slow = [FullSocket(server.port, max_tokens=4500, logprobs=20, ignore_eos=True) for _ in range(2)]
        wait_until(lambda: server.engine.statistics.steps > 100)
        assert server.post("/v1/completions", prompt="abc", max_tokens=4)[1]["choices"][0]["text"] == "defg"
        wait_until(lambda: not server.server.server_state.connections, 60)
        for one in slow:
            one.socket.close()
        wait_until(lambda: not server.engine.live)
    assert not caplog.records, "the server speaks of a defect"


def test_a_stream_that_nobody_reads_is_aborted_when_its_time_is_over():
    aborted, closed = [], []

    async def chunks():
        yield {"choices": []}

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # for room that never comes

    async def stream():
        events = types.SimpleNamespace(deadline=asyncio.get_running_loop().time() - 0.9, close=lambda: closed.append(1))
        await _EventStream(chunks(), events)({"state": {"abort": lambda: aborted.append(1)}}, None, send)

    asyncio.run(stream())
    assert (aborted, closed) == ([1], [1])


def soak(server, seconds, threads, draw):
    """Asks from many threads until the time is over; returns the number of answers by kind, all of them checked."""
    counts, alphabet, end = {}, "abcdefghijklmnopqrstuvwxyz" * 4, time.monotonic() + seconds

    def client(number):
        choose = draw(number)
        while time.monotonic() < end:
            letter, length, stream = choose.randrange(26), choose.randint(1, 12), choose.random() < 0.5
            body = {"prompt": alphabet[letter], "max_tokens": length, "stream": stream}
            kind = choose.choice(["read", "read", "leave", "wrong"])
            if kind == "leave":
                with server.connection(**body):
                    time.sleep(choose.random() * 0.01)
            elif kind == "wrong":
                assert server.post("/v1/completions", **body, nonsense=1)[0] == 400
            else:
                status, _, answer = server.ask("POST", "/v1/completions", body)
                assert status == 200
                chunks = [json.loads(line[6:]) for line in answer.split("\n\n")[:-2]] if stream else [answer]
                text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
                assert text == alphabet[letter + 1 : letter + 1 + length]
            counts[kind] = counts.get(kind, 0) + 1

    failures = []

    def guarded(number):
        try:
            client(number)
        except BaseException as error:
            failures.append(error)
            raise

    running = [threading.Thread(target=guarded, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(seconds + 60)
    assert failures == []
    wait_until(lambda: not server.engine.live and server.worker.num_unfinished == 0)
    wait_until(lambda: not server.server.server_state.tasks)
    return counts


@pytest.mark.parametrize("seconds", [1.5, pytest.param(60.0, marks=pytest.mark.sweep)])
def test_a_soak_loses_no_request(seconds):
    with serving(FakeEngine(rows=4, per_step=2, seconds=0.0005), waiting=500) as server:
        counts = soak(server, seconds, threads=12, draw=random.Random)
        assert set(counts) == {"read", "leave", "wrong"}
        assert counts["read"] > 20
        assert "cairn_unfinished_texts 0.0" in server.ask("GET", "/metrics")[2]
