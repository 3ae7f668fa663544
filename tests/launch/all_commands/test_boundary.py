"""A fuzzer over input from outside: either a right result, or one message. Nothing else is raised."""

import dataclasses
import json
import math
import shutil

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from launch.command import streams
from model.errors import UserError
from model.inference.sampling import Sampling
from model.options.annotations import fields_of
from model.options.assignments import override
from model.options.json import from_json, to_json
from model.options.tree import check, find_problems, walk
from tests.tiers import SWEEP, representatives
from train.data.config import Bytes
from train.data.shards.dataset import open_dataset
from train.data.tokenizers.interface import BytesTokenizer, load_tokenizer
from train.experiment import Experiment, load
from train.generation.prompts import read_prompts
from train.generation.texts import check_prompts
from train.report import summary
from train.run.environment import read_sessions
from train.terminal.formatting import escape_unprintable

fuzzed = hypothesis.settings(
    max_examples=25,
    suppress_health_check=list(hypothesis.HealthCheck),
)

ODD_NUMBERS = (
    "nan inf -inf 1e999 -1e999 1e-320 1e308 -0 -1 0 1 2 1.5 1e3 1_000 0x10 010 True None 1j ² ٣ 4294967295 4294967296 "
    "9223372036854775808 -9223372036854775809"
)
LONG = ["9" * 5000, "0x" + "f" * 5000, "-" * 3000 + "1", "(" * 300, "x" * 5000, "a" + ".a" * 3000]
ODD_TEXTS = [
    "\0",
    "\ud800",
    "\udcff",
    "a\nb",
    "\r\n",
    "\x1b[31m",
    "\ufeff",
    "'",
    '"',
    "(",
    "[]",
    "{[]}",
    "..",
    "~nobody/x",
]
ODD_TEXTS += ["", " ", "*", "a,b", "f(x)", "Rotary(", "Rotary(theta=nan)", "Rotary(theta=1, theta=2)", "Wheel()", *LONG]
texts = st.sampled_from([*ODD_NUMBERS.split(), *ODD_TEXTS]) | st.text(st.characters(exclude_categories=()), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(ODD_TEXTS) | st.just(10**400),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from("a type step".split()), inside, max_size=3)
    ),
    max_leaves=4,
)


def outcome(action):
    """The result of an action, or None, and the message with which it refuses, or None."""
    try:
        return action(), None
    except UserError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def fields(tiny_experiment):
    """The paths of all fields of a tiny experiment."""
    tree = tiny_experiment(model__position="Rotary()", model__exceptions="()")
    return [f"{path}.{name}".lstrip(".") for path, option in walk(tree) for name in fields_of(type(option))]


@hypothesis.settings(fuzzed, max_examples=150)
@hypothesis.given(data=st.data())
def test_assignments(data, fields, tiny_experiment):
    path = data.draw(st.sampled_from(fields) | texts)
    assignment = data.draw(st.sampled_from(["=", "", "=="])).join([path, data.draw(texts)])
    changed, refused = outcome(lambda: override(tiny_experiment(), assignment))
    if refused is None:
        _, refused = outcome(lambda: check(changed))
    if refused is not None:
        assert refused
        return
    numbers = [value for _, option in walk(changed) for value in vars(option).values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert from_json(Experiment, json.loads(json.dumps(to_json(changed)))) == changed


@fuzzed
@hypothesis.given(
    number=st.floats() | st.integers() | st.just(10**400),
    name=st.sampled_from([field.name for field in dataclasses.fields(Sampling)]),
)
def test_numbers_of_sampling(number, name):
    sampling = dataclasses.replace(Sampling(), **{name: number})
    if not find_problems(sampling):
        rules = [value for value in sampling.rules().values() if value is not None]
        assert np.isfinite(np.asarray(rules, np.float32)).all()
        np.uint32(sampling.seed)


COMMANDS = {
    "launch.train": "config run set hard_stop",
    "launch.evaluate": "run checkpoint against against_checkpoint text field domain_field stream separator window stride windows "
    "batch_size details lengths resume results html json",
    "launch.generate": "run checkpoint prompt prompts_file max_tokens temperature top_k top_p min_p repetition_penalty stop seed "
    "num_samples batch_size json output chat chat_template steer",
    "launch.inspect": "run checkpoint output text text_file source layers heads taps half position checkpoints positive by mesh",
    "launch.serve": "run checkpoint port host api_key model_name chat_template rows tokens_per_step cache_tokens "
    "max_waiting request_timeout drain_timeout max_body mesh",
    "launch.tokenize": "input field output tokenizer vocab_size validation workers",
    "launch.data": "run step rows characters path verify",
    "launch.report": "run curve",
    "launch.convert": "from to run parameters compute context_length checkpoint like family accept quantize activations",
    "launch.quickstart": "set hard_stop num_files file_tokens",
    "launch.plan": "config set topology slices mesh serve model run rows context json",
    "launch.compare": "a b text documents html",
    "launch.parity": "a b set_a set_b mesh_b batch_size sequence_length documents seed noise tolerance",
    "launch.replay": "run step rows shown mesh",
    "launch.clusters.joint": "config set member mesh hard_stop",
    "launch.sweep": "to config set mesh run jobs joint only partition time topology claim folder",
    "launch.submit": "to config set mesh run python processes port time partition topology seeds variant claim folder",
}
# An argument that ends each command before it works: a folder, a file or a value that does not exist.
NOWHERE = {
    "launch.train": ["--config=nowhere.py"],
    "launch.inspect": ["attention", "--run=nowhere"],
    "launch.tokenize": ["--input=nowhere.txt"],
    "launch.data": ["show", "--run=nowhere"],
    "launch.quickstart": ["--config=nowhere.py"],
    "launch.plan": ["--config=nowhere.py"],
    "launch.compare": ["--a=nowhere", "--b=nowhere", "--noevaluate"],
    "launch.parity": ["--a=nowhere.py"],
    "launch.clusters.joint": ["--config=nowhere.py", "--member=nowhere", "--member=nowhere/b"],
    "launch.sweep": ["--config=nowhere.py", "--dry_run"],
    "launch.submit": ["--config=nowhere.py", "--dry_run"],
}


@hypothesis.settings(fuzzed, max_examples=8)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("module", COMMANDS)
def test_flags(module, data, command, tmp_path, monkeypatch):
    refuse_flags(module, data, command, tmp_path, monkeypatch)


@SWEEP
@hypothesis.settings(fuzzed, max_examples=50)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("module", COMMANDS)
def test_many_flags(module, data, command, tmp_path, monkeypatch):
    refuse_flags(module, data, command, tmp_path, monkeypatch)


def refuse_flags(module, data, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = data.draw(st.lists(st.sampled_from(COMMANDS[module].split()), min_size=1, max_size=3, unique=True))
    given = [f"--{name}={data.draw(texts)}" for name in names]
    last = NOWHERE.get(module, ["--run=nowhere"])  # the last value of a flag counts
    status, printed = command(module, *given, *last)
    assert status == 2, printed
    assert "error: " in printed
    assert "Traceback" not in printed
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]


@fuzzed
@hypothesis.given(content=st.binary(max_size=40) | texts.map(lambda text: text.encode(errors="surrogatepass")))
@pytest.mark.parametrize("name", ["a.txt", "A.JSONL"])
def test_prompts_of_a_file(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    prompts, refused = outcome(lambda: read_prompts(tmp_path / name))
    if refused is not None:
        assert name in refused
        return
    text = content.decode("utf-8-sig")
    assert [prompt.text for prompt in prompts] == [
        line for line in text.replace("\r\n", "\n").split("\n") if line.strip()
    ]


@fuzzed
@hypothesis.given(text=texts)
def test_prompts_become_ids(text, tiny_experiment):
    tokenizer = BytesTokenizer(Bytes())
    rows, refused = outcome(lambda: check_prompts(tiny_experiment().model, tokenizer, [text]))
    if refused is not None:
        assert "prompt 1 " in refused
        return
    assert tokenizer.decode(rows[0]) == text


@fuzzed
@hypothesis.given(
    text=texts, encoding=st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "gbk", "utf-16", "shift_jis"])
)
def test_any_text_goes_to_any_stream(text, encoding, tmp_path, monkeypatch):
    with open(tmp_path / "out", "w", encoding=encoding) as stream:
        streams.replace_output_streams()
        monkeypatch.setattr("sys.stdout", streams._non_raising_stream(stream.fileno(), stream, None))
        print(streams.as_json({"text": text}).replace("\n", ""))
        print(text)
        assert streams.output_error() is None
    first = (tmp_path / "out").read_bytes().decode(encoding).split("\n")[0]
    assert json.loads(first) == {"text": text}


@fuzzed
@hypothesis.given(text=texts)
def test_a_name_is_one_line_of_characters(text):
    assert len(escape_unprintable(text).splitlines()) <= 1
    escape_unprintable(text).encode("utf-8")
    assert "\x1b" not in escape_unprintable(text)


FILES = (
    "status.json",
    "parameters.json",
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "throughput.jsonl",
    "data.json",
)
FILES += ("data/dataset.json", "data/tokenizer_option.json")


READERS = (
    load,
    summary,
    read_sessions,
    lambda run: open_dataset(run / "data"),
    lambda run: load_tokenizer(run / "data"),
)


@pytest.fixture(scope="module")
def copy(tiny_run, tmp_path_factory):
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("copy") / "run")


def replaced(value, place, new):
    """A JSON value with one of its parts, by its number in the tree, replaced by another value."""
    if place == 0 or not isinstance(value, list | dict) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[place % len(keys)]
    inside = replaced(value[key], place // len(keys), new)
    return value | {key: inside} if isinstance(value, dict) else [*value[:key], inside, *value[key + 1 :]]


@fuzzed
@hypothesis.given(place=st.integers(0, 10**6), new=values, cut=st.none() | st.integers(0, 200))
@pytest.mark.parametrize("name", representatives(FILES, "config.json", "metrics.jsonl", "data/dataset.json"))
def test_files_of_a_run(name, place, new, cut, copy):
    whole = (copy / name).read_bytes()
    try:
        first, *rest = whole.splitlines() if name.endswith("l") else [whole]
        changed = json.dumps(replaced(json.loads(first), place, new)).encode()
        (copy / name).write_bytes((b"\n".join([changed, *rest]) + b"\n")[:cut])
        for read in READERS:
            _, refused = outcome(lambda read=read: read(copy))
            assert refused is None or str(copy) in refused
    finally:
        (copy / name).write_bytes(whole)
