"""Runs that were read from the folders whose answers tests/parity/harness/compare.py recorded."""

import json

import pytest

from tests.parity.harness.folder import KINDS, make_folder
from train.conversion.reading import read_published
from train.evaluation.harness.model import HarnessModel
from train.run.loading import load_run

RECORDED = "tests/fixtures/harness"


@pytest.fixture(scope="package")
def models(tmp_path_factory):
    """The models of both tokenizers, by kind."""
    found = {}
    for kind in KINDS:
        there = tmp_path_factory.mktemp("harness")
        read_published(make_folder(there / "model", kind), there / "run", parameter_dtype="float32")
        found[kind] = HarnessModel(load_run(there / "run"))
    return found


@pytest.fixture(params=KINDS)
def recorded(request, models, pytestconfig):
    """A model, the recorded requests, and the answers of the harness's Hugging Face backend."""
    path = pytestconfig.rootpath / RECORDED / f"{request.param}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    return models[request.param], content["requests"], content["answers"]
