"""The commands that the documents, the configs and the commands themselves show: their flags and values exist."""

import itertools
import pathlib
import re
import shlex

import pytest

from tests import stores
from train.config_file import from_file
from train.data import open_dataset, prepare

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGES = sorted(path for top in ("model", "train", "launch") for path in ROOT.glob(f"{top}/**/*.md"))
PAGES = [ROOT / "README.md", *PAGES]
DOCUMENTS = [*PAGES, *ROOT.glob("configs/**/*.py"), *ROOT.glob("launch/*.py")]


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
    assert len([words for path, words in COMMANDS if path.endswith("README.md")]) > 60


def anchors(page):
    """The names by which links find the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("tests/**/*.md")}), ids=lambda x: str(x.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("module", MODULES)
def test_every_documented_flag_exists(module, command):
    status, shown = command(module, "--help")
    assert status == 0
    known = {flag for no, flag in re.findall(r"^  --(\[no\])?(\w+):", shown, re.MULTILINE)} | {"help"}
    for path, words in COMMANDS:
        if words[0] == module:
            flags = {found[1] for word in words if (found := re.match(r"--(\w+)", word))}
            assert flags <= known, (path, words)


def test_every_flag_in_the_sentences_of_the_pages_exists(command):
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
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


def test_the_text_in_a_store_of_the_readme_is_prepared(monkeypatch, tmp_path):
    """Its config takes the path of the command, has a tokenizer that needs no training, and holds out a part."""
    (words,) = (
        words for path, words in COMMANDS if path == "README.md" and "gs://bucket/corpora/all.txt" in str(words)
    )
    (config,) = (word.removeprefix("--config=") for word in words if word.startswith("--config="))
    store = stores.install(monkeypatch, tmp_path)
    text = "All that is in the corpora of a bucket.\n" * 200
    (store.root / "gs" / "bucket" / "corpora").mkdir(parents=True)
    (store.root / "gs" / "bucket" / "corpora" / "all.txt").write_text(text)
    experiment = from_file(str(ROOT / config), [words[words.index("--set") + 1]])
    dataset = open_dataset(prepare(experiment.data, tmp_path / "data"))
    assert sum(dataset.count(split, "bytes") for split in ("train", "validation")) == len(text)
    assert dataset.count("validation", "bytes") == pytest.approx(len(text) / 10, abs=50)
