"""Texts, datasets, runs and weights in object stores; folders that only a store library can reach stand for them."""

import json
import shutil

import jax
import numpy as np
import pytest

from model.errors import UserError
from tests import stores
from tests.tiers import SWEEP, representatives
from train import experiment as experiments
from train.checkpoints.faults import DamagedError
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.data.config import Source, TokenizerOf
from train.data.prepare.prepare import prepare
from train.data.shards.dataset import dataset_of_run, is_dataset, open_dataset
from train.data.text.sources import fingerprint, list_units, read_unit
from train.evaluation.documents import from_files
from train.evaluation.evaluate import evaluate
from train.evaluation.named_evaluations import NamedEvaluation
from train.files.paths import user_path
from train.files.remote import cache_folder, local_copy
from train.loop import train
from train.parallel.mesh import Mesh
from train.run.loading import load_params, load_run
from train.run.metrics import read_metrics, read_statistics, read_status
from train.statistics import Statistics


@pytest.fixture
def store(monkeypatch, tmp_path):
    """The stores; at the end the working folder is empty, so no store path was read as a local path."""
    yield stores.install(monkeypatch, tmp_path)
    assert not list((tmp_path / "here").iterdir())


@pytest.fixture(params=["gs", "s3"])
def stored_run(request, store, tiny_run):
    """The tiny run in a store, with its own data beside it."""
    folder = shutil.copytree(tiny_run, store.root / request.param / "bucket" / "run")
    (folder / "data.json").write_text(json.dumps({"dataset": f"{request.param}://bucket/run/data"}))
    return f"{request.param}://bucket/run"


# ------------------------------------------------------------------------------------------------------------ copies


def test_a_file_of_this_machine_is_itself(tmp_path):
    assert local_copy(tmp_path / "gs:") == tmp_path / "gs:"


def test_a_copy_is_made_once_and_again_when_the_file_changes(store):
    path = store.root / "gs" / "b" / "x.txt"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    first = local_copy(user_path("gs://b/x.txt"))
    assert first.name == "x.txt"
    assert first.read_text() == "one"
    assert first.is_relative_to(cache_folder())
    assert local_copy(user_path("gs://b/x.txt")) == first
    assert store.opened == ["gs://b/x.txt"]
    path.write_text("longer")
    assert local_copy(user_path("gs://b/x.txt")).read_text() == "longer"
    assert first.read_text() == "one"


def test_a_copy_that_fails_half_way_is_none(store, monkeypatch):
    path = store.root / "gs" / "b" / "x.txt"
    path.parent.mkdir(parents=True)
    path.write_text("one")

    def broken(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", broken)
    with pytest.raises(UserError, match="cannot write .*cache.*: No space left on device"):
        local_copy(user_path("gs://b/x.txt"))
    monkeypatch.undo()
    assert not any(cache_folder().rglob("x.txt"))


def test_large_copies_are_said(store, capsys):
    path = store.root / "gs" / "b" / "x.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(3 << 20))
    local_copy(user_path("gs://b/x.txt"))
    assert capsys.readouterr().err.startswith("gs://b/x.txt: copying 3 MiB to ")


def test_what_is_not_there_and_stores_without_their_package_are_errors_of_the_user(store, monkeypatch):
    with pytest.raises(UserError, match="gs://b/nothing is not there"):
        local_copy(user_path("gs://b/nothing"))

    def missing(path):
        raise ImportError("Please install gcsfs to access Google Storage")

    def refused(path):
        raise RuntimeError("403: no access\nat all")

    monkeypatch.setattr(store, "isdir", missing)
    with pytest.raises(UserError, match="gs://b/x needs the package gcsfs: pip install gcsfs"):
        local_copy(user_path("gs://b/x"))
    monkeypatch.setattr(store, "isdir", refused)
    with pytest.raises(UserError, match="cannot read gs://b/x: 403: no access; nothing was changed"):
        local_copy(user_path("gs://b/x"))


# ------------------------------------------------------------------------------------------------- texts and datasets


@pytest.mark.parametrize("path", ["", "/0.txt", "/[0-3].txt", "/*", "/**/*.txt"])
def test_texts_are_those_of_a_folder_of_this_machine(store, tiny_text, path):
    shutil.copytree(tiny_text, store.root / "gs" / "bucket" / "text")
    here, there = (list_units(Source(path=f"{root}{path}")) for root in (tiny_text, "gs://bucket/text"))
    assert [unit.name for unit in there] == [unit.name for unit in here]
    assert fingerprint(there) == fingerprint(here)
    assert [d for unit in there for d in read_unit(unit)] == [d for unit in here for d in read_unit(unit)]
    asked = {unit.name.rpartition("/")[2] for unit in here}
    assert {name.rpartition("/")[2] for name in store.opened} == asked  # nothing else was copied


def test_a_text_that_is_not_there_is_refused(store):
    (store.root / "gs" / "bucket").mkdir(parents=True)
    with pytest.raises(UserError, match="gs://bucket/nothing.txt is not there"):
        list_units(Source(path="gs://bucket/nothing.txt"))
    with pytest.raises(UserError, match="matches no file"):
        list_units(Source(path="gs://bucket/*.txt"))


def test_a_dataset_is_copied_split_by_split_and_once(store, tiny_run):
    folder = shutil.copytree(tiny_run / "data", store.root / "s3" / "bucket" / "data")
    shutil.rmtree(folder / "index", ignore_errors=True)
    assert is_dataset("s3://bucket/data")
    there, here = open_dataset("s3://bucket/data"), open_dataset(tiny_run / "data")
    assert there.tokenizer.fingerprint() == here.tokenizer.fingerprint()
    assert not [name for name in store.opened if "array_record" in name]
    for mine, theirs in zip(there.split("validation"), here.split("validation"), strict=True):
        for number in range(theirs.num_documents):
            np.testing.assert_array_equal(mine.tokens(number), theirs.tokens(number))
    shards = [name for name in store.opened if "array_record" in name]
    assert shards
    assert all("validation" in name for name in shards)
    # The same content under another name is the same copy.
    shutil.copytree(folder, store.root / "gs" / "other" / "data")
    open_dataset("gs://other/data").split("validation")[0].tokens(0)
    assert [name for name in store.opened if "array_record" in name] == shards


def test_a_mixture_has_members_in_stores(store, tiny_run, tiny_experiment, tmp_path):
    for place in ("gs/a/data", "s3/b/data"):
        shutil.copytree(tiny_run / "data", store.root / place)
    sources = (Source(path="gs://a/data", weight=2.0), Source(path="s3://b/data"))
    data = tiny_experiment(data__path=sources, data__tokenizer=None, data__validation=None).data
    made = open_dataset(prepare(data, tmp_path / "mixture"))
    assert [str(member.folder) for member in made.members] == ["gs://a/data", "s3://b/data"]
    expected = open_dataset(tiny_run / "data").split("train")[0].tokens(0)
    for part in made.split("train"):
        np.testing.assert_array_equal(part.tokens(0), expected)


@SWEEP
def test_a_further_text_is_a_dataset_of_a_store_and_its_statistics_are_read_there(
    store, tiny_run, tiny_experiment, tmp_path
):
    shutil.copytree(tiny_run / "data", store.root / "gs" / "bucket" / "data")
    quick = {"training__num_steps": 2, "samples__prompts": (), "schedule": "Constant(peak=1e-3)"}
    for name, path in (("plain", str(tiny_run / "data")), ("there", "gs://bucket/data")):
        texts = (NamedEvaluation(name="again", path=path, every=1),)
        experiment = tiny_experiment(evaluations=texts, statistics=Statistics(every=1), **quick)
        train(experiment, tmp_path / name, say=lambda _: None)
        assert not (tmp_path / name / "evaluations").exists()
    here = read_metrics(tmp_path / "plain")
    assert [line["step"] for line in here if line.get("name") == "again"] == [1, 2]
    assert read_metrics(tmp_path / "there") == here
    shutil.copytree(tmp_path / "there", store.root / "s3" / "bucket" / "run")
    assert len(read_statistics("s3://bucket/run")) > 0
    assert read_statistics("s3://bucket/run") == read_statistics(tmp_path / "plain")


def test_a_run_trains_on_text_data_and_tokenizer_of_a_store(store, tiny_text, tiny_run, tiny_experiment, tmp_path):
    shutil.copytree(tiny_text, store.root / "gs" / "bucket" / "text")
    shutil.copytree(tiny_run / "data", store.root / "gs" / "bucket" / "data")
    quick = {"training__num_steps": 2, "samples__prompts": (), "schedule": "Constant(peak=1e-3)"}
    plain = tiny_experiment(**quick)
    train(plain, tmp_path / "plain", say=lambda _: None)
    text = tiny_experiment(data__path="gs://bucket/text", data__tokenizer=TokenizerOf(path="gs://bucket/data"), **quick)
    train(text, tmp_path / "text", say=lambda _: None)
    ready = tiny_experiment(data__path="gs://bucket/data", data__tokenizer=None, data__validation=None, **quick)
    train(ready, tmp_path / "ready", say=lambda _: None)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("plain", "text", "ready")]
    assert losses[0] == losses[1] == losses[2]
    assert dataset_of_run(tmp_path / "ready").folder == user_path("gs://bucket/data")


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_run_is_evaluated_where_it_lies(stored_run, tiny_run, tiny_text, store):
    here, there = load_run(tiny_run), load_run(stored_run)
    jax.tree.map(np.testing.assert_array_equal, there.params, here.params)
    assert there.experiment == here.experiment
    texts = lambda run: from_files(run.tokenizer, [str(tiny_text / "0.txt")])  # noqa: E731
    assert evaluate(there, texts(there)).measures == evaluate(here, texts(here)).measures
    assert not [name for name in store.opened if "array_record" in name]  # no text of its own was asked for
    assert evaluate(there).as_json()["loss"] == evaluate(here).as_json()["loss"]
    assert evaluate(there).run == stored_run
    assert read_metrics(stored_run) == read_metrics(tiny_run)
    assert read_status(stored_run) == read_status(tiny_run)


def test_steps_and_meshes_are_chosen_as_for_any_other(stored_run, store):
    assert load_run(stored_run, "best").step == 20
    assert load_run(stored_run, "10", mesh=Mesh(fsdp=8)).step == 10
    with pytest.raises(UserError, match="no checkpoint '11'; use latest, best, or a step: its checkpoints are 10, 20"):
        load_run(stored_run, "11")
    assert not [name for name in store.opened if "opt_state" in name]


@pytest.mark.parametrize("missing", ["params", "files.json"])
def test_a_checkpoint_that_is_being_uploaded_is_ignored(stored_run, store, missing, capsys):
    """The newest one: its largest array file, or its record, is not there yet."""
    checkpoint = store.root / stored_run.replace("://", "/") / "checkpoints" / "20"
    found = [path for path in checkpoint.rglob("*") if path.is_file() and missing in path.parts]
    late = max(found, key=lambda path: path.stat().st_size)
    late.rename(store.root / "late")
    assert load_run(stored_run).step == 10
    said = capsys.readouterr().err
    assert f"checkpoint 20 in {stored_run}/checkpoints is ignored because {late.relative_to(checkpoint)} is not" in said
    assert "damaged" not in said
    with pytest.raises(UserError, match=r"no checkpoint '20'; use latest, best, or a step: its checkpoints are 10$"):
        load_run(stored_run, "20")
    (store.root / "late").rename(late)
    capsys.readouterr()
    assert load_run(stored_run).step == 20
    assert "ignored" not in capsys.readouterr().err


def test_arrays_of_gs_are_read_in_place_and_those_of_other_stores_are_copied(stored_run, store):
    load_params(user_path(stored_run))
    copied = any(cache_folder().rglob("manifest.ocdbt"))
    assert copied == stored_run.startswith("s3")


def test_a_damaged_checkpoint_in_a_store_is_named(stored_run, store):
    folder = store.root / stored_run.replace("://", "/") / "checkpoints" / "20" / "params"
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 2000:
            path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamagedError, match="checkpoint 20 in .* is damaged"):
        load_run(stored_run, "20")


@pytest.mark.parametrize("stored_run", representatives(["gs", "s3"], "gs"), indirect=True)
def test_another_run_starts_from_it(stored_run, tiny_experiment, tmp_path):
    start = load_run(stored_run).params
    experiment = tiny_experiment(training__init_from=stored_run, training__num_steps=1, schedule="Constant(peak=1e-9)")
    train(experiment, tmp_path / "tuned", say=lambda _: None)
    for a, b in zip(jax.tree.leaves(load_params(tmp_path / "tuned").params), jax.tree.leaves(start), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("stored_run", representatives(["gs", "s3"], "s3"), indirect=True)
def test_weights_in_a_store_become_a_run_and_a_run_in_a_store_becomes_weights(stored_run, store, tiny_run, tmp_path):
    write_published(user_path(stored_run), tmp_path / "out", family="llama")
    write_published(tiny_run, tmp_path / "same", family="llama")
    for path in (tmp_path / "same").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
    shutil.copytree(tmp_path / "out", store.root / "gs" / "hub" / "llama")
    read_published(user_path("gs://hub/llama"), tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal, load_params(tmp_path / "run").params, load_params(user_path(stored_run)).params
    )
    shutil.copytree(tmp_path / "run", store.root / "gs" / "bucket" / "converted")
    write_published(user_path("gs://bucket/converted"), tmp_path / "again")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    damaged = store.root / "gs" / "hub" / "llama" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(UserError, match="gs://hub/llama/model.safetensors is damaged: it has .* bytes"):
        read_published(user_path("gs://hub/llama"), tmp_path / "other")


# ------------------------------------------------------------------------------------------------- what is not written


def test_nothing_is_written_into_a_store(store, tiny_experiment, tiny_run, write_config, tmp_path, command):
    (store.root / "gs" / "bucket").mkdir(parents=True)
    with pytest.raises(UserError, match="a dataset that is made must be on a disk of this machine: got gs://bucket/d"):
        prepare(tiny_experiment().data, "gs://bucket/data")
    config = write_config(tiny_experiment(), tmp_path / "config.py")
    for module, *arguments in (
        ("launch.quickstart", f"--config={config}", "--run=gs://bucket/run"),
        ("launch.tokenize", f"--input={config}", "--tokenizer=bytes", "--output=gs://bucket/data"),
        ("launch.convert", f"--run={tiny_run}", "--to=gs://bucket/out", "--family=llama"),
        ("launch.convert", f"--from={tmp_path}", "--run=gs://bucket/run"),
        ("launch.report", "--run=gs://bucket/run"),
        ("launch.report", f"--run={tiny_run}", "--curve=gs://bucket/curve.png"),
    ):
        status, said = command(module, *arguments)
        assert status == 2, (module, said)
        assert "must be on a disk of this machine: got gs://bucket/" in said, (module, said)
    assert not list((store.root / "gs" / "bucket").iterdir())
    experiments.load(tiny_run)
