"""launch.convert: its output and its exit status."""

import json
import pathlib
import shutil

import pytest

from model.families import family_named
from train import experiment as experiments

FIXTURE = pathlib.Path(__file__).parent.parent / "fixtures" / "families" / "llama" / "0"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    there = tmp_path_factory.mktemp("convert")
    shutil.copytree(FIXTURE, there / "llama")
    shutil.copytree(FIXTURE, there / "unknown")
    about = json.loads((FIXTURE / "config.json").read_text())
    (there / "unknown" / "config.json").write_text(json.dumps(about | {"model_type": "lama"}))
    return there


def test_convert(call, folders, tiny_run):
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
        "like": (f"--run={tiny_run}", f"--to={folders}/mine", f"--like={folders}/mine.json"),
        "like what": (f"--run={tiny_run}", f"--to={folders}/other"),
        "like another": (f"--run={tiny_run}", f"--to={folders}/other", "--like=qwen3-0.6b"),
        "like and family": (f"--run={tiny_run}", f"--to={folders}/other", "--like=gpt2", "--family=llama"),
        "accept": (f"--from={folders}/llama", f"--run={folders}/other", "--accept=mlp_bias"),
        "accept, writing": (f"--run={run}", f"--to={folders}/other", "--accept=mlp_bias"),
        "quantize": (f"--run={run}", f"--to={folders}/int4", "--quantize=int4:32"),
        "quantize, reading": (
            f"--from={folders}/llama",
            f"--run={folders}/int8",
            "--quantize=int8",
            "--activations=int8",
        ),
        "quantize what": (f"--run={run}", f"--to={folders}/other", "--quantize=int5"),
        "quantize, like": (f"--run={run}", f"--to={folders}/other", "--quantize=int8", "--like=gpt2"),
        "activations": (f"--run={run}", f"--to={folders}/other", "--activations=int8"),
        "like, reading": (f"--from={folders}/llama", f"--run={folders}/other", "--like=gpt2"),
        "no GGUF": (f"--from={folders}/mine.GGUF", f"--run={folders}/other"),
        "tokenizer": (f"--from={folders}/llama", f"--run={folders}/other", "--tokenizer=x"),
    }
    about = family_named("llama").config_json(experiments.load(tiny_run).model) | {"vocab_size": 32000}
    (folders / "mine.json").write_text(json.dumps(about))
    (folders / "mine.GGUF").write_bytes(bytes(100))
    answers = dict(zip(calls, call("launch.convert", calls.values()), strict=True))
    assert "parameters as float32" in answers["read"].out
    assert "WARNING: no tokenizer.json" in answers["read"].out
    assert answers["write"].out == f"{back}: written\n"
    failed = {name for name, answer in answers.items() if answer.status == 2}
    assert failed == answers.keys() - {"read", "write", "like", "quantize", "quantize, reading"}
    assert all(answers[name].status == 0 for name in answers.keys() - failed)
    assert answers["quantize"].out.endswith(" parameters as float32 and int4:32\n")
    assert " parameters as bfloat16 and int8\n" in answers["quantize, reading"].out
    assert "--quantize=int5: expected int8, int4 or fp8" in answers["quantize what"].err
    assert "--like has no effect with --quantize" in answers["quantize, like"].err
    assert "--activations is about quantised weights" in answers["activations"].err
    assert answers["like"].out.startswith(f"{folders}/mine: written\nconfig.json is that of --like=")
    assert answers["like"].out.endswith(" with this run's vocab_size=257\n")
    assert "describe its config.json: with --like" in answers["like what"].err
    assert "model.width: 1024 -> 32\n" in answers["like another"].err
    assert "--like=gpt2 names the family too; leave out --family=llama" in answers["like and family"].err
    assert "--like has no effect with --from" in answers["like, reading"].err
    assert "--accept=mlp_bias: this key is not refused, so leave the flag out" in answers["accept"].err
    assert "--accept is about the config.json of --from or --like" in answers["accept, writing"].err
    assert "exists already" in answers["again"].err
    assert "mine.GGUF is no GGUF file, or a damaged one" in answers["no GGUF"].err
    assert "--tokenizer goes with --from=FILE.gguf" in answers["tokenizer"].err
    assert "no family reads model_type=\"lama\"; did you mean 'llama'?" in answers["unknown"].err
    assert "--run is missing" in answers["no run"].err
    assert "either --from" in answers["both"].err
    assert "--parameters has no effect with --to" in answers["misplaced"].err
    assert "nowhere does not exist; give the folder into which the model was downloaded" in answers["no folder"].err
    for path in back.iterdir():
        assert path.read_bytes() == (folders / "llama" / path.name).read_bytes()
    assert not (folders / "other").exists()
