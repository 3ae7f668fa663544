"""The command that measures a training step."""

import json

import pytest

from tests.tiers import SWEEP


@pytest.fixture(scope="module")
def config(tiny_experiment, write_config, tmp_path_factory):
    return write_config(tiny_experiment(), tmp_path_factory.mktemp("config") / "tiny.py")


def test_prints_a_table(config, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed = command("launch.bench", f"--config={config}", "--steps=2", "--warmup=1", "--mesh=fsdp=8")
    assert status == 0, printed
    for words in (
        "devices                        8  cpu",
        "128 tokens in a step",
        "no peak is known of this device",
        "n=2",
    ):
        assert words in printed
    assert list(tmp_path.iterdir()) == []


@SWEEP
def test_prints_json_alone(config, command):
    status, printed = command("launch.bench", f"--config={config}", "--steps=2", "--json", "--set=data.batch_size=16")
    assert status == 0, printed
    found = json.loads(printed)
    assert found["tokens"] == 256
    assert len(found["step_seconds"]) == 2
    assert found["mfu"] is None
    assert found["set"] == ["data.batch_size=16"]


def test_decoding(config, command):
    arguments = ("--decode", "--rows=1", "--contexts=4", "--steps=2", "--warmup=1", "--json")
    status, printed = command("launch.bench", f"--config={config}", *arguments)
    assert status == 0, printed
    found = json.loads(printed)
    assert [(cell["rows"], cell["context"], len(cell["token_seconds"])) for cell in found["cells"]] == [(1, 4, 2)]
    assert found["cells"][0]["bandwidth_share"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=nothing.py"], "nothing.py"),
        (["--config={config}", "--steps=0"], "flag --steps=0: 0 is not a positive integer"),
        (["--config={config}", "here"], "unexpected argument 'here'"),
        (["--config={config}", "--rows=4"], "--rows is for --decode"),
        (["--config={config}", "--decode", "--rows=0"], "'0' is no number from 1"),
        (["--config={config}", "--decode", "--model=llama-2-7b"], "--decode measures one model"),
        (["--config={config}", "--decode", "--trace=2"], "--trace has one number of rows; got --rows=1,8"),
        (["--config={config}", "--decode", "--per_second=2"], "--per_second is for --trace"),
        (["--decode", "--model=llama-2-7c"], "no published model is called 'llama-2-7c'"),
        (["--config={config}", "--mesh=fsdp=3"], "does not multiply to the 8 devices here"),
    ],
)
def test_mistakes_are_told(arguments, message, config, command):
    given = [argument.format(config=config) for argument in arguments]
    status, printed = command("launch.bench", *given)
    assert status == 2
    assert message in printed
    assert "Traceback" not in printed
