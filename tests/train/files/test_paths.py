import dataclasses
import os
import pathlib
import pwd

import pytest

from model.errors import UserError
from train.config_file import all_option_classes
from train.data.config import Bytes, Data, HuggingFace, SentencePieceFile, SeparateText, Source, TokenizerOf
from train.data.shards.dataset import is_dataset
from train.data.span_corruption.option import SpanCorruption
from train.data.tokenizers.interface import BytesTokenizer, make_tokenizer, save_tokenizer
from train.experiment import Experiment, Training
from train.files.paths import expand_home, expand_paths, require_utf8, user_path
from train.run.loading import load_run


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_home_is_written_out_at_the_beginning_alone(home):
    assert expand_home("~") == home
    assert expand_home("~/a b/[c]") == f"{home}/a b/[c]"
    assert expand_home(f"~{pwd.getpwuid(os.getuid()).pw_name}/x") == pwd.getpwuid(os.getuid()).pw_dir + "/x"
    for path in ("a/~/b", "./~", "/~", "", "stdlib", "hf:x", "a~"):
        assert expand_home(path) == path


def test_a_name_that_begins_with_a_tilde(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert user_path("~/x") == pathlib.Path(f"{home}/x")
    assert user_path("./~nobody-here") == user_path(user_path("./~nobody-here")) == pathlib.Path("~nobody-here")
    save_tokenizer(BytesTokenizer(Bytes()), tmp_path / "~nobody-here")
    assert make_tokenizer(TokenizerOf(path="./~nobody-here"), ()).vocab_size == 257
    assert not is_dataset("./~nobody-here")
    with pytest.raises(UserError, match="^~nobody-here is no run folder: it has no config.json"):
        load_run("./~nobody-here")


def test_a_folder_to_write_into_is_utf8_by_its_bytes(tmp_path, monkeypatch):
    require_utf8(tmp_path / "\u00e9")
    with pytest.raises(UserError, match=r"must be UTF-8, and this one is b'.*/caf\\xe9'; give another one"):
        require_utf8(tmp_path / os.fsdecode(b"caf\xe9"))
    # In a locale of ASCII text holds the bytes of each letter as surrogates.
    monkeypatch.setattr(os, "fsencode", lambda path: os.fspath(path).encode("ascii", "surrogateescape"))
    require_utf8(pathlib.Path("/", "\udcc3\udca9"))


def test_an_unknown_user_is_named(home):
    with pytest.raises(
        UserError, match=r"~nobody-here/x: this system knows no user 'nobody-here'; .* \./~nobody-here/x"
    ):
        expand_home("~nobody-here/x")


def test_without_a_home_it_is_said(monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(
        UserError, match=f"~/x: HOME is not set, and this system knows no user with the .* {os.getuid()}"
    ):
        expand_home("~/x")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UserError, match="~/x: HOME is '', expected an absolute path"):
        expand_home("~/x")


def test_every_field_that_is_a_path_is_written_out(home):
    training = expand_paths(Training(num_steps=1, init_from="~/run"))
    assert training.init_from == f"{home}/run"
    for option in (SentencePieceFile, HuggingFace, SeparateText, Source, TokenizerOf, Data, SpanCorruption):
        assert expand_paths(option(path="~/x")) == option(path=f"{home}/x")
    mixture = Data(path=(Source(path="a"), Source(path="~/b")), tokenizer=TokenizerOf(path="~/c"))
    assert [source.path for source in expand_paths(mixture).path] == ["a", f"{home}/b"]
    assert expand_paths(mixture).tokenizer.path == f"{home}/c"
    plain = Data(path="~")
    assert expand_paths(dataclasses.replace(plain, path="x")) == dataclasses.replace(plain, path="x")


def test_no_field_of_that_name_is_forgotten():
    fields = [(cls, field) for cls in all_option_classes(Experiment).values() for field in dataclasses.fields(cls)]
    names = ("path", "init_from", "run", "folder", "file", "reference", "teacher")
    named = {(cls.__name__, f.name) for cls, f in fields if f.name in names}
    marked = {(cls.__name__, f.name) for cls, f in fields if f.metadata.get("path")}
    assert named == marked
    assert ("Data", "path") in marked


def test_an_error_names_the_field(home):
    mixture = Data(path=(Source(path="a"), Source(path="~no-one/b")))
    with pytest.raises(UserError, match=r"data\.path\[1\]\.path=~no-one/b: this system knows no user 'no-one'"):
        expand_paths(mixture, "data")
