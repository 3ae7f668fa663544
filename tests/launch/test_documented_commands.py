"""The commands that the documents, the configs and the commands themselves show: their flags and values exist."""

import itertools
import pathlib
import re
import shlex

import pytest

from train.config_file import from_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("model/**/*.md"), *ROOT.glob("configs/**/*.py"), *ROOT.glob("launch/*.py")]


def documented():
    """Yields each `python -m launch.X ...` as a shell splits it, after the path of its document: lines and code words."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for line, code in re.findall(
            r"^ *python -m (launch\.[^\n`]*)$|`python -m (launch\.[^`\n]*)`", text, re.MULTILINE
        ):
            yield path.relative_to(ROOT).as_posix(), shlex.split(line or code, comments=True)


COMMANDS = list(documented())
MODULES = sorted({words[0] for _, words in COMMANDS})


def test_the_documents_show_all_commands():
    shown = {f"launch.{path.stem}" for path in ROOT.glob("launch/*.py") if "\nif __name__" in path.read_text()}
    assert set(MODULES) == shown
    assert len([words for path, words in COMMANDS if path == "README.md"]) > 20


@pytest.mark.parametrize("module", MODULES)
def test_every_documented_flag_exists(module, command):
    status, shown = command(module, "--help")
    assert status == 0
    known = {flag for no, flag in re.findall(r"^  --(\[no\])?(\w+):", shown, re.MULTILINE)} | {"help"}
    for path, words in COMMANDS:
        if words[0] == module:
            flags = {found[1] for word in words if (found := re.match(r"--(\w+)", word))}
            assert flags <= known, (path, words)


def test_every_flag_in_the_sentences_of_the_readme_exists(command):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {
        flag for module in MODULES for flag in re.findall(r"^  --(?:\[no\])?(\w+):", command(module, "--help")[1], re.M)
    }
    named = {flag for code in re.findall(r"`(--[^`]+)`", text) for flag in re.findall(r"--(\w+)", code)}
    assert {"set", "accept", "like", "json"} <= named
    assert named <= known | {"help"}


TRAINING = [(path, words) for path, words in COMMANDS if words[0] == "launch.train" and "--set" in words]


@pytest.mark.parametrize(("path", "words"), TRAINING, ids=lambda x: x if isinstance(x, str) else " ".join(x[1:]))
def test_every_documented_setting_fits_its_config(path, words):
    (config,) = (word.removeprefix("--config=") for word in words if word.startswith("--config="))
    settings = [value for word, value in itertools.pairwise(words) if word == "--set"]
    experiment = from_file(str(ROOT / config), settings)
    for setting in settings:
        field, _, value = setting.partition("=")
        if field == "data.path":
            assert experiment.data.path == value


def test_text_in_a_store_is_trained_on_with_the_config_of_the_readme():
    (words,) = (
        words for path, words in COMMANDS if path == "README.md" and "gs://bucket/corpora/all.txt" in str(words)
    )
    assert {"--config=configs/text_file.py", "data.path=gs://bucket/corpora/all.txt"} <= set(words)
