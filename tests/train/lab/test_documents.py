import json
import math
import re
import shutil

import numpy as np
import pytest

from model.errors import UserError
from tests.train.lab.sweeps import OFFSETS, SETTINGS, STEPS, write_sweep
from train.lab.documents import compare_documents, measure_documents
from train.lab.report import summary
from train.lab.report.analysis import analyse
from train.lab.results import read_results
from train.lab.statistics.documents import paired_bootstrap

FEW = {name: SETTINGS[name] for name in ("base", "wide", "same")}
LENGTHS = np.array([10, 40, 25, 300, 7, 80, 55, 120])


@pytest.fixture(scope="module")
def base(tiny_experiment):
    return tiny_experiment(training__num_steps=STEPS)


@pytest.fixture
def sweep(tmp_path, base):
    write_sweep(tmp_path / "sweep", base, FEW, seeds=(0, 1))
    return tmp_path / "sweep"


def sums(name, seed, lengths=LENGTHS):
    """The sums of eight documents: the tokens' losses, which vary by document and seed, and an end of each."""
    per_token = 2.0 + OFFSETS[name] + 0.1 * seed + 0.3 * np.cos(np.arange(8)) + 0.01 * np.cos(len(name) + np.arange(8))
    return {
        "nll": (per_token * lengths).tolist(),
        "tokens": lengths.tolist(),
        "bytes": (4 * LENGTHS).tolist(),
        "end_nll": [0.5] * 8,
        "end_tokens": [1] * 8,
    }


def keep(sweep, name, seed, columns=None, **changes):
    folder = sweep / "documents"
    folder.mkdir(exist_ok=True)
    content = {"step": STEPS, "text": "validation"} | (columns or sums(name, seed)) | changes
    (folder / f"{name}-seed{seed}.json").write_text(json.dumps(content))


def keep_all(sweep):
    for name in FEW:
        for seed in (0, 1):
            keep(sweep, name, seed)


def test_the_difference_is_that_of_the_means_over_seeds(sweep):
    keep_all(sweep)
    found, unit = compare_documents(read_results(sweep), 0.9)
    assert (unit, set(found)) == ("nats per token", {"wide", "same"})

    def mean(name):
        return np.mean([np.add(sums(name, s)["nll"], 0.5) for s in (0, 1)], axis=0)

    expected = paired_bootstrap(mean("base"), LENGTHS + 1, mean("wide"), LENGTHS + 1, level=0.9)
    assert (found["wide"].mean, found["wide"].low) == pytest.approx((expected.mean, expected.low))
    by_hand = (mean("wide").sum() - mean("base").sum()) / (LENGTHS + 1).sum()
    assert found["wide"].mean == pytest.approx(by_hand)
    analysis = analyse(read_results(sweep))
    assert next(row for row in analysis.rows if row.name == "wide").documents.mean == pytest.approx(by_hand)
    assert analysis.document_unit == unit


def test_other_tokens_are_compared_by_bytes(sweep):
    keep_all(sweep)
    for seed in (0, 1):
        keep(sweep, "wide", seed, sums("wide", seed, 2 * LENGTHS))
    found, unit = compare_documents(read_results(sweep), 0.95)
    assert unit == "bits per byte"
    bits = [np.mean([sums(n, s, k * LENGTHS)["nll"] for s in (0, 1)], axis=0) for n, k in (("base", 1), ("wide", 2))]
    expected = (bits[1].sum() - bits[0].sum()) / (4 * LENGTHS).sum() / math.log(2)
    assert found["wide"].mean == pytest.approx(expected)


@pytest.mark.parametrize("change", [{"step": 100}, {"text": "wiki"}, {"nll": "damaged"}, {"bytes": [1] * 8}])
def test_sums_of_another_step_or_text_do_not_count(sweep, change):
    keep_all(sweep)
    keep(sweep, "wide", 1, **change)
    assert set(compare_documents(read_results(sweep), 0.95)[0]) == {"same"}
    assert analyse(read_results(sweep)).notes == [
        "No difference over documents of wide: not all seeds were measured on the same text."
    ]


def test_few_documents_and_the_differences_are_said(sweep):
    keep_all(sweep)
    (line,) = (line for line in summary(analyse(read_results(sweep))).splitlines() if line.startswith("wide over"))
    number = "\u22120\\.0\\d+"
    assert re.fullmatch(rf"wide over documents: {number} \[{number}, {number}\] nats per token", line)
    for name in FEW:
        for seed in (0, 1):
            keep(sweep, name, seed, {column: values[:3] for column, values in sums(name, seed).items()})
    assert analyse(read_results(sweep)).notes == [
        "No interval over documents: the text of validation has 3 documents, and an interval takes at least 4."
    ]


def test_nothing_is_compared_without_the_base(sweep):
    keep_all(sweep)
    (sweep / "documents/base-seed0.json").unlink()
    assert compare_documents(read_results(sweep), 0.95) == ({}, "")
    assert analyse(read_results(sweep)).notes == []


def test_runs_are_measured_once(tiny_run, tmp_path):
    """The sums are those of `evaluate` on the last checkpoint, and a second call evaluates nothing."""
    from train.evaluation.evaluate import evaluate
    from train.run.loading import load_run

    sweep = tmp_path / "sweep"
    shutil.copytree(tiny_run, sweep / "base-seed0")
    variants = {"base": {"settings": [], "held": [], "tuned": [], "note": ""}}
    content = {"format": 1, "name": "demo", "base": "base", "variants": variants, "seeds": [0]}
    (sweep / "sweep.json").write_text(json.dumps(content))
    said = []
    measure_documents(read_results(sweep), said.append)
    measure_documents(read_results(sweep), said.append)
    assert said == ["base-seed0: its loss on every document (1 of 1)"]
    kept = json.loads((sweep / "documents/base-seed0.json").read_text())
    tally = evaluate(load_run(str(tiny_run)), stride=16).tally
    assert (kept["step"], kept["text"]) == (20, "validation")
    assert kept["nll"] == tally.column("nll").tolist()
    assert kept["tokens"] == tally.column("tokens").tolist()
    (sweep / "sweep.json").write_text(json.dumps(content | {"metric": "accuracy"}))
    with pytest.raises(UserError, match="'accuracy' is no sum over documents"):
        measure_documents(read_results(sweep), said.append)
