"""A run as it is served: its own chat template or one from a file, its name, the ids that end its texts."""

import json
import types

import pytest

from model.errors import UserError
from tests.parity.chat.templates import make_tokenizer
from train.data.config import HuggingFace
from train.data.tokenizers.huggingface import HuggingFaceTokenizer
from train.serving.served import served_of


@pytest.fixture
def run(tmp_path):
    """A run that was read from a published folder, as far as serving looks at it."""
    folder = tmp_path / "llama"
    (folder / "origin").mkdir(parents=True)
    path = make_tokenizer(folder / "origin")
    names = {"bos_token": "<s>", "eos_token": "<|im_end|>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    (folder / "origin" / "tokenizer_config.json").write_text(json.dumps(names))
    option = HuggingFace(path=str(path), begin_of_document="<s>", end_of_document="</s>")
    tokenizer = HuggingFaceTokenizer.load(option, path)
    experiment = types.SimpleNamespace(model=types.SimpleNamespace(context_length=77, encoder=None))
    return types.SimpleNamespace(folder=folder, tokenizer=tokenizer, experiment=experiment)


def test_of_a_published_model(run):
    served = served_of(run, name=None, chat_template=None, created=5)
    assert (served.name, served.context_length, served.created) == ("llama", 77, 5)
    marks = run.tokenizer.marks()
    assert served.stop_tokens == (marks["<|im_end|>"],)
    assert served.chat.ids([{"role": "user", "content": "a"}])[0] == marks["<s>"]


def test_of_a_model_with_an_encoder(run):
    assert served_of(run, name=None, chat_template=None, created=5).encoder is None
    run.experiment.model.encoder = encoder = types.SimpleNamespace(context_length=30, start_token=0)
    for source_tokens, longest in ((None, 30), (20, 20), (40, 30)):
        served = served_of(run, name=None, chat_template=None, created=5, source_tokens=source_tokens)
        assert (served.encoder, served.longest_source) == (encoder, longest)


def test_a_name_and_a_template_of_ones_own(run, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ eos_token }}")
    served = served_of(run, name="mine", chat_template=str(tmp_path / "mine.jinja"), created=0)
    assert served.name == "mine"
    assert served.chat.ids([{"role": "user", "content": "a"}]) == [run.tokenizer.marks()["<|im_end|>"]]


def test_templates_that_cannot_be_read(run, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "bad").write_text("{% if %}")
    for name, words in (
        ("none", "no chat template at"),
        ("binary", "is not UTF-8 text"),
        ("bad", "is not a Jinja template: line 1"),
    ):
        with pytest.raises(UserError, match=words):
            served_of(run, name=None, chat_template=str(tmp_path / name), created=0)


def test_a_run_of_ones_own_has_no_template(run):
    (run.folder / "origin" / "tokenizer_config.json").unlink()
    assert served_of(run, name=None, chat_template=None, created=0).chat is None
