"""Texts of the engine for launch.generate: those of static batches, in a file that continues, and a conversation."""

import dataclasses
import io
import json
import re

import jax
import pytest

from launch.command.engine_texts import EngineTexts, with_cache_for
from model.attention.grouped_query import GroupedQuery
from model.encoder.cross import CrossAttention
from model.encoder.option import Encoder
from model.errors import UserError
from model.feedforward.mlp import MLP
from model.inference.engine.options import EngineOptions
from model.inference.engine.speculation import NGram
from model.inference.sampling import Sampling
from model.transformer import init
from tests.tiers import SWEEP
from train.generation.constraints import Constraints, Form
from train.generation.prompts import Prompt
from train.generation.texts import before_texts, generate_texts
from train.run.loading import load_run

MODULE = "launch.generate"
SAMPLING = Sampling(max_tokens=6, temperature=0.8, seed=3)
PROMPTS = [Prompt(text, f"prompt {text}") for text in ("the cat", "a dog sees", "the cat")]


@pytest.fixture(scope="module")
def run(tiny_run):
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    return str(path)


@pytest.fixture(scope="module")
def texts(run, template):
    """One engine for all, with the programs that it has compiled; it takes prompts as messages when asked to."""
    engine = EngineOptions(rows=2, tokens_per_step=128, speculation=NGram(shortest=1))
    return EngineTexts(run, SAMPLING, stop_strings=(), engine=engine, chat=True, chat_template=template)


@pytest.fixture
def plain(texts, monkeypatch):
    monkeypatch.setattr(texts, "_chat", None)
    return texts


def test_a_file_has_the_texts_of_static_batches_and_continues(plain, run, tmp_path, capfd):
    path = tmp_path / "out.jsonl"
    plain.write(PROMPTS, 2, path)
    whole = path.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    prompts = [prompt.text for prompt in PROMPTS for _ in range(2)]
    expected = generate_texts(run.experiment.model, run.params, run.tokenizer, prompts, SAMPLING)
    assert [(line["prompt"], line["text"], line["tokens"], line["ended_by"]) for line in lines] == [
        (prompt, text.text, text.tokens, text.ended_by) for prompt, text in zip(prompts, expected)
    ]
    assert len({line["text"] for line in lines}) > 3
    printed = capfd.readouterr().err
    assert "generate  6/6" in printed
    assert "6 texts, " in printed
    assert "; time to first token " in printed
    assert re.search(r"; \d+% of \d+ guesses right, [12]\.\d\d tokens of a text a step\n$", printed)
    # Killed amid the fourth line.
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]) + b'{"prompt": "the')
    plain.write(PROMPTS, 2, path)
    assert path.read_bytes() == whole
    assert "3 texts, " in capfd.readouterr().err


def test_a_file_is_not_continued_with_other_parameters(plain, run, tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    plain.write(PROMPTS[:1], 1, path)
    other = dataclasses.replace(run, params=jax.tree.map(lambda x: x * 1.5, run.params))
    monkeypatch.setattr(plain, "_run", other)
    with pytest.raises(UserError, match="line 1: was drawn with other flags or weights"):
        plain.write(PROMPTS[:1], 1, path)


def test_a_conversation_remembers(texts, capsys, monkeypatch):
    asked = []
    take = texts._answer
    monkeypatch.setattr(texts, "_answer", lambda request: asked.append(request) or take(request))
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\n" + "x" * 60 + "\nwho\n"))
    texts.converse(None)
    out, err = capsys.readouterr()
    first, second = out.splitlines()[0], out.splitlines()[-1]
    assert bytes(asked[0].request.prompt) == b"hi "
    assert bytes(asked[1].request.prompt) == f"hi {first} who ".encode()
    assert second
    assert "error: the conversation has" in err
    assert "2 texts, " in err


def test_messages_from_the_command_line(texts, capsys):
    texts.converse(["hi"])
    assert capsys.readouterr().out.endswith("\n")
    with pytest.raises(UserError, match="the conversation has 41 tokens with its chat template; expected 1 to 32"):
        texts.converse(["x" * 40])


def test_messages_into_a_file(texts, tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    texts.write(PROMPTS[:1], 1, path)
    assert json.loads(path.read_text())["prompt"] == "the cat"
    with pytest.raises(UserError, match="prompt x has 41 tokens"):
        texts.write([Prompt("x" * 40, "prompt x")], 1, tmp_path / "long.jsonl")
    monkeypatch.setitem(texts._settings, "is_chat", False)
    with pytest.raises(UserError, match="line 1: was drawn with other flags or weights"):
        texts.write(PROMPTS[:1], 1, path)


def test_texts_under_a_constraint(plain, run, monkeypatch):
    monkeypatch.setattr(plain, "_constraint", Constraints(run.tokenizer).of(Form.choice(["cats", "dog"])))
    shown, found = [], []
    plain.draw(PROMPTS[:1], 1, lambda index, text: shown.append((index, text)), found)
    assert "".join(text for _, text in shown) == found[0].text
    plain.draw(PROMPTS, 2, lambda index, text: shown.append((index, text)), found)
    assert {text.text for text in found} == {"cats", "dog"}
    assert {index for index, _ in shown[1:]} == set(range(6))


def test_a_form_decides_the_texts_of_a_file(run):
    options = dict(stop_strings=(), engine=EngineOptions(rows=2), chat=False, chat_template=None)
    of = lambda form: EngineTexts(run, SAMPLING, form=form, **options)._settings.get("form")  # noqa: E731
    assert of(None) is None
    assert of(Form("regex", "a")) == ["regex", "a"]


def test_a_chat_needs_a_template(run):
    with pytest.raises(UserError, match="this run has no chat template"):
        EngineTexts(run, SAMPLING, stop_strings=(), engine=EngineOptions(rows=2), chat=True, chat_template=None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--chat", "--json"], "--json prints texts at the end, and has no effect with --output and --chat"),
        (["--output=x.jsonl", "--json"], "--json prints texts at the end"),
        (["--output=x.txt"], "--output=x.txt: the texts are lines of JSON; give a name that ends in .jsonl"),
        (["--chat", "--num_samples=2"], "--chat on the terminal answers one message at a time; give --output"),
        (["--chat_template=x"], "--chat_template has no effect without --chat"),
    ],
)
def test_flags_that_clash(command, given, words):
    status, printed = command(MODULE, "--run=nowhere", *given)
    assert status == 2
    assert words in printed


@pytest.fixture(scope="module")
def pair(run):
    """A run of a model with an encoder."""
    encoder = Encoder(
        num_layers=1,
        context_length=40,
        mixer=GroupedQuery(num_heads=2),
        ffn=MLP(width=20),
        cross=CrossAttention(num_heads=2),
        start_token=5,
    )
    model = dataclasses.replace(run.experiment.model, num_layers=1, encoder=encoder)
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(0))
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, model=model), params=params)


@pytest.fixture(scope="module")
def targets(pair):
    options = with_cache_for(EngineOptions(rows=1, tokens_per_step=2), pair, PROMPTS, SAMPLING.max_tokens)
    assert (options.source_tokens, options.cache_tokens) == (16, 32)
    return EngineTexts(pair, SAMPLING, stop_strings=(), engine=options, chat=False, chat_template=None)


def test_prompts_that_an_encoder_reads(targets, pair, run, tmp_path):
    """They end as sources do in training, and the texts are others."""
    assert before_texts(pair.experiment.model, ["a", "b"], "") == ["", ""]
    first = targets._requests(PROMPTS, 1)[0].request
    assert (first.prompt, first.source) == ((5,), (*b"the cat", run.tokenizer.end_of_document))
    with pytest.raises(UserError, match="prompt x has 41 tokens"):
        targets.write([Prompt("x" * 40, "prompt x")], 1, tmp_path / "long.jsonl")


@SWEEP
def test_texts_of_sources_are_those_of_static_batches(targets, pair, tmp_path):
    path = tmp_path / "out.jsonl"
    targets.write(PROMPTS, 1, path)
    found = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    model, prompts = pair.experiment.model, [prompt.text for prompt in PROMPTS]
    assert found == [each.text for each in generate_texts(model, pair.params, pair.tokenizer, prompts, SAMPLING)]
