"""launch.convert: what it says, and with which status it ends."""

import json
import pathlib
import shutil

import pytest

FIXTURE = pathlib.Path(__file__).parent.parent / "fixtures" / "families" / "llama" / "0"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    there = tmp_path_factory.mktemp("convert")
    shutil.copytree(FIXTURE, there / "llama")
    shutil.copytree(FIXTURE, there / "unknown")
    about = json.loads((FIXTURE / "config.json").read_text())
    (there / "unknown" / "config.json").write_text(json.dumps(about | {"model_type": "lama"}))
    return there


def test_convert(call, folders):
    run, back = folders / "run", folders / "back"
    calls = {
        "read": (f"--from={folders}/llama", f"--run={run}", "--parameters=float32"),
        "again": (f"--from={folders}/llama", f"--run={run}"),
        "write": (f"--run={run}", f"--to={back}"),
        "unknown": (f"--from={folders}/unknown", f"--run={folders}/other"),
        "no run": (f"--from={folders}/llama",),
        "both": (f"--from={folders}/llama", f"--run={run}", f"--to={back}"),
        "misplaced": (f"--run={run}", f"--to={back}", "--parameters=float32"),
        "loose": (f"--run={run}", "x"),
        "no folder": (f"--from={folders}/nowhere", f"--run={folders}/other"),
    }
    answers = dict(zip(calls, call("launch.convert", calls.values()), strict=True))
    assert "parameters as float32" in answers["read"].out
    assert "WARNING: no tokenizer.json" in answers["read"].out
    assert answers["write"].out == f"{back}: written\n"
    assert {name: a.status for name, a in answers.items() if a.status} == dict.fromkeys(
        ("again", "unknown", "no run", "both", "misplaced", "loose", "no folder"), 2
    )
    assert "exists already" in answers["again"].err
    assert "no family takes model_type='lama'; did you mean 'llama'?" in answers["unknown"].err
    assert "--run is missing" in answers["no run"].err
    assert "either --from" in answers["both"].err
    assert "--parameters has no effect with --to" in answers["misplaced"].err
    assert "no config.json" in answers["no folder"].err
    for path in back.iterdir():
        assert path.read_bytes() == (folders / "llama" / path.name).read_bytes()
    assert not (folders / "other").exists()
