"""The command that compares two configs: what it hands on, and that its exit status says whether they agree."""

import dataclasses
import json

import pytest

from train.lab.parity import parity
from train.lab.parity.inputs import Inputs


@pytest.fixture(scope="module")
def config(tiny_experiment, write_config, tmp_path_factory):
    experiment = tiny_experiment(mesh="Mesh(data=1)", model__num_layers=1)
    return write_config(experiment, tmp_path_factory.mktemp("parity") / "config.py")


@pytest.fixture
def compared(monkeypatch):
    """The arguments of the comparison, which is not made; layer 1 differs by half a deviation."""
    calls = []

    def compare(a, b, inputs, tolerance):
        calls.append((a, b, inputs, tolerance))
        sizes = {"layer 0": 1e-6, "layer 1": 0.5}
        stream = [parity.TensorDifference(place, "stream", x, x / 10) for place, x in sizes.items()]
        gradient = parity.TensorDifference("layer 1", "blocks.mixer.query", 1e-5, 1e-6)
        bound = tolerance or 1e-4
        return parity.Parity(
            bound=bound,
            bound_in_words="in words",
            stream=stream,
            gradients=[gradient],
            losses=(2.0, 2.5),
            shape=(8, 16),
            kernels=(["attention: blocks"], ["attention: plain"]),
        )

    monkeypatch.setattr(parity, "compare_configs", compare)
    return calls


def test_configs_that_differ(config, compared, command):
    arguments = [f"--a={config}", "--set_b", "model.position.theta=9e3", "--mesh_b=fsdp=8", "--documents=3", "--seed=7"]
    status, said = command("launch.parity", *arguments)
    assert status == 3
    assert "8 rows of 16 tokens; losses 2 and 2.5\n  a: kernel for attention: blocks\n" in said
    marked = [line for line in said.splitlines() if line.endswith("  <- beyond the bound")]
    assert [line.split() for line in marked] == [
        ["layer", "1", "stream", "5.00e-01", "5.00e-02", *marked[0].split()[5:]]
    ]
    assert said.endswith("they DIFFER: first at layer 1 (stream)\n")
    ((a, b, inputs, tolerance),) = compared
    changed = dataclasses.replace(a, mesh=b.mesh, model=dataclasses.replace(a.model, position=b.model.position))
    assert (b, b.model.position.theta, b.mesh.fsdp) == (changed, 9e3, 8)
    assert (inputs, tolerance) == (Inputs(documents=3, seed=7), None)


def test_configs_that_agree_within_a_tolerance(config, compared, command):
    arguments = [f"--a={config}", f"--b={config}", "--set_a", "model.width=64", "--tolerance=0.5"]
    status, said = command("launch.parity", *arguments)
    assert status == 0
    assert said.endswith("they agree: none of 3 differences is beyond the bound\n")
    assert [experiment.model.width for experiment in compared[0][:2]] == [64, 32]
    status, said = command("launch.parity", *arguments, "--json")
    found = json.loads(said)
    assert (status, found["agree"], found["bound"], found["first"]) == (0, True, 0.5, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--a is missing"),
        (["--a=CONFIG", "x"], "unexpected argument 'x'"),
        (["--a=nowhere.py"], "no config file at nowhere.py"),
        (["--a=CONFIG", "--set_b", "model.ffn.width=8"], "blocks.ffn.down of layer 0 has the shape"),
        (["--a=CONFIG", "--set_b", "model.depth=8"], "--set_b model.depth"),
        (["--a=CONFIG", "--mesh_b=fsdp=3"], "fsdp"),
        (["--a=CONFIG", "--mesh_b=fsd=3"], "--mesh_b=fsd=3: 'fsd=3' is no size of an axis"),
        (["--a=CONFIG", "--batch_size=0"], "--batch_size must be at least 1, got 0"),
        (["--a=CONFIG", "--batch_size=3", "--mesh_b=data=2"], "data.batch_size"),
        (["--a=CONFIG", "--documents=20"], "20 documents do not fit a row of 16 tokens"),
        (["--a=CONFIG", "--tolerance=-1"], "--tolerance must be 0 or more"),
        (["--a=CONFIG", "--sequence_length=64"], "64 is longer than model.context_length=32"),
    ],
)
def test_mistakes_are_named(arguments, message, config, command):
    status, said = command("launch.parity", *[argument.replace("CONFIG", str(config)) for argument in arguments])
    assert (status, "Traceback" in said) == (2, False)
    assert message in said
