"""A server on a free port for tests: the real application and sockets over an engine without a model."""

import contextlib
import http.client
import json
import socket
import threading
import time

import openai

from tests.train.generation.engines import FakeEngine
from train.data.config import Bytes
from train.data.conversations.template import ChatTemplate
from train.data.tokenizers.interface import BytesTokenizer
from train.generation.chat_template import ChatPrompts
from train.generation.text_engine import TextEngine
from train.generation.worker import EngineWorker
from train.serving.app import Application
from train.serving.parameters.options import Limits, Served
from train.serving.server import Server, listen

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}{{ prefix }}assistant: {% endif %}"
)
BYTES = BytesTokenizer(Bytes())


def served(context=64, template=TEMPLATE, tokenizer=BYTES, **fields):
    """A model that is served."""
    chat = None if template is None else ChatPrompts(ChatTemplate(template), tokenizer)
    return Served(name="tiny", tokenizer=tokenizer, context_length=context, chat=chat, created=1, **fields)


class Running:
    """A server that runs, and ways to ask it."""

    def __init__(self, server, worker, port, engine):
        self.server, self.worker, self.port, self.engine = server, worker, port, engine

    def client(self, key="none", **options):
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, **options)

    def ask(self, method, path, body=None, headers=(), raw=None, timeout=20):
        """The status, headers and body of an answer; JSON is read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            content = raw if raw is not None else None if body is None else json.dumps(body)
            kind = {"content-type": "application/json"} if content is not None else {}
            connection.request(method, path, content, {**kind, **dict(headers)})
            answer = connection.getresponse()
            text = answer.read()
            known = (answer.headers.get("content-type") or "").startswith("application/json")
            return answer.status, answer.headers, json.loads(text) if known else text.decode()
        finally:
            connection.close()

    def post(self, path, **body):
        """The status and body of an answer to JSON."""
        status, _, answer = self.ask("POST", path, body)
        return status, answer

    def error(self, path="/v1/completions", status=400, **body):
        """The error with which a body is refused; the status is the expected one."""
        found, answer = self.post(path, **body)
        assert found == status, answer
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        return answer["error"]

    @contextlib.contextmanager
    def connection(self, **body):
        """A socket on which a completion was asked for, to be read or not."""
        content = json.dumps({"prompt": "a", **body}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as one:
            one.sendall(head.encode() + content)
            yield one


def wait_until(condition, seconds=30.0):
    """Waits until a condition holds; fails when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@contextlib.contextmanager
def serving(engine=None, model=None, *, api_key=None, capacity=None, **limits):
    """A running server."""
    engine = engine or FakeEngine()
    model, limits = model or served(), Limits(**{"drain_seconds": 5.0, **limits})
    worker = EngineWorker(TextEngine(engine, model.tokenizer), capacity or 4 + limits.waiting)
    server = Server(Application(model, worker, limits, api_key=api_key), worker, limits)
    worker.on_failure = server.drain
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run_on, args=(listener,), daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(server, worker, port, engine)
    finally:
        server.drain()
        thread.join(20)
        worker.close()
        assert not thread.is_alive()
