"""launch.serve: a trained run behind the official client, its own texts, a stop that drains, mistakes in one line."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import openai
import pytest

from model.inference.sampling import Sampling
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
