"""launch.serve: a trained run behind the official client, its own texts, a stop that drains, mistakes in one line."""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import openai
import pytest

from model.inference.sampling import Sampling
from tests.train.serving.servers import wait_until
from train.generation.texts import generate_texts
from train.run.loading import load_run

MODULE = "launch.serve"
ROOT = pathlib.Path(__file__).resolve().parents[2]
# The smallest engine: few programs to compile.
SMALL = ("--rows=2", "--tokens_per_step=16", "--port=0")


@pytest.fixture(scope="module")
def server(tiny_run, tmp_path_factory):
    """A served run: its process and its port."""
    template = tmp_path_factory.mktemp("template") / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    program = [sys.executable, "-m", MODULE, f"--run={tiny_run}", f"--chat_template={template}", *SMALL]
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    process = subprocess.Popen(
        program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.stderr.read())
    yield process, re.fullmatch(r"serving tiny at http://127.0.0.1:(\d+) \(chat and completions\)\n", line)[1]
    process.kill()
    process.wait()


def metrics(port):
    """The numbers of /metrics without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.partition(" ") for line in lines)
        if "{" not in name + value and name != "#"
    }


def ask_and_maybe_leave(port, number, found):
    """Asks for a text; some clients leave before it comes. Notes the answer of those that stay."""
    body = json.dumps(
        {"prompt": "the cat"[: 1 + number % 7], "max_tokens": 20, "temperature": 0, "stream": number % 3 == 1}
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    if number % 4 == 3:
        time.sleep(0.01 * (number % 5))
    else:
        answer = connection.getresponse()
        text = answer.read().decode()
        lines = [line[6:] for line in text.split("\n\n")[:-2]] if number % 3 == 1 else [text]
        found.append((number % 7, "".join(json.loads(line)["choices"][0]["text"] for line in lines)))
    connection.close()


def test_many_clients_lose_no_text_and_leak_no_page(server):
    port, found = int(server[1]), []
    clients = [threading.Thread(target=ask_and_maybe_leave, args=(port, number, found)) for number in range(56)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert len(found) == 42
    assert len(set(found)) == 7, "a text depends on the others"
    wait_until(lambda: metrics(port)["cairn_unfinished_texts"] == 0)
    numbers = metrics(port)
    assert (
        numbers["cairn_engine_pages_in_use"] == numbers["cairn_engine_waiting"] == numbers["cairn_engine_running"] == 0
    )
    assert numbers["cairn_engine_new_tokens"] > 42


def test_a_run_is_served_and_drains(server, tiny_run):
    process, port = server
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    assert client.models.list().data[0].id == "tiny"
    asked = {"model": "tiny", "prompt": ["the cat", "a dog"], "max_tokens": 10, "temperature": 0}
    answer = client.completions.create(**asked, logprobs=1, echo=True)
    run = load_run(tiny_run)
    expected = generate_texts(run.experiment.model, run.params, run.tokenizer, asked["prompt"], _greedy(10))
    assert [choice.text for choice in answer.choices] == ["the cat" + expected[0].text, "a dog" + expected[1].text]
    scores = answer.choices[0].logprobs
    assert scores.token_logprobs[0] is None
    # Greedy: each new token is the likeliest.
    new = list(zip(scores.token_logprobs, scores.top_logprobs))[8:]
    assert all(score == max(top.values()) for score, top in new)
    chunks = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "the cat"}], max_tokens=4, stream=True, seed=3
    )
    assert chunks.response.status_code == 200
    next(chunks)
    process.send_signal(signal.SIGTERM)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] in ("length", "stop")
    assert process.wait(30) == 0
    errors = process.stderr.read()
    assert "Traceback" not in errors
    assert re.search(r"the cache holds 64 tokens in 0\.\d MB; a text may have 32, and 2 are drawn at once", errors)


def _greedy(max_tokens):
    return Sampling(max_tokens=max_tokens, temperature=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "--run is missing: which model?"),
        (["more"], "unexpected argument 'more'"),
        (["--host=0.0.0.0"], "--host=0.0.0.0 lets other machines in, which needs a key: give --api_key=..."),
        (["--api_key=é"], "--api_key holds a character that no HTTP header can have"),
        (["--request_timeout=0"], "--request_timeout: must be above 0, got 0.0"),
        (["--max_waiting=-1"], "--max_waiting: must be 0 or more, got -1"),
        (["--rows=0"], "--rows: must be at least 1, got 0"),
        (["--rows=16", "--tokens_per_step=4"], "--tokens_per_step: must be more than rows=16"),
        (["--port=70000"], "--port"),
        (["--run=nowhere", "--port=0"], "no run folder"),
        (["--run=nowhere", "--host=no.such.host.invalid", "--api_key=x"], "is no address of this machine"),
    ],
)
def test_mistakes_are_one_message_and_exit_2(command, given, words):
    given = given if not given or any("--run" in x for x in given) or "more" in given else ["--run=nowhere", *given]
    status, printed = command(MODULE, *given)
    assert (status, "Traceback" in printed) == (2, False), printed
    assert words in printed


def test_without_its_packages_the_command_says_how_to_get_them(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, printed = command(MODULE, "--run=nowhere")
    assert status == 2
    assert "serving needs the package uvicorn: pip install 'cairn-lm[serve]'" in printed
