"""Every command that holds a model takes --mesh, and gives the same on one device, on four and on eight."""

import json
import shutil

import pytest

from model.options.json import to_json
from tests.commands import answers_on
from tests.train.conversion.folders import contents, published
from train import experiment as experiments
from train.loop import train
from train.parallel.mesh import Mesh

EVALUATE, GENERATE, CONVERT = "launch.evaluate", "launch.generate", "launch.convert"
WAYS = {
    "own": (),
    "fsdp": ("--mesh=fsdp=8",),
    "tensor": ("--mesh=fsdp=4,tensor=2",),
    "all tensor": ("--mesh=tensor=8",),
}
NOTE = "tensor=2 does not divide vocab of 257: not split over tensor"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Many short documents beside a long one."""
    path = tmp_path_factory.mktemp("texts") / "rows.jsonl"
    rows = ["the cat", "a dog hears a bird.", "é", "old " * 40, "never or always", "but in a house", "grey"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return path


@pytest.fixture(scope="module")
def evaluated(tiny_run, texts):
    return (f"--run={tiny_run}", f"--text={texts}", "--json")


@pytest.fixture(scope="module")
def generated(tiny_run):
    prompts = ("--prompt=the cat", "--prompt=a", "--prompt=old grey")
    return (f"--run={tiny_run}", *prompts, "--temperature=0", "--max_tokens=12", "--batch_size=3", "--json")


@pytest.fixture(scope="module")
def converted(call, tiny_run, tmp_path_factory):
    """A folder with weights written on a mesh, and with the run that was read from them on another; two Answers."""
    folder = tmp_path_factory.mktemp("converted")
    run = shutil.copytree(tiny_run, folder / "run")
    first = (f"--run={run}", f"--to={folder}/published", "--family=llama", "--mesh=fsdp=4,tensor=2")
    second = (f"--from={folder}/published", f"--run={folder}/back", "--mesh=fsdp=2,tensor=2")
    return folder, *call(CONVERT, [first]), *call(CONVERT, [second])


@pytest.fixture(scope="module")
def one_device(evaluated, generated, converted):
    """The Answers of the three commands on one device."""
    again = (f"--run={converted[0]}/back", f"--to={converted[0]}/again")
    return answers_on(1, [(EVALUATE, *evaluated), (GENERATE, *generated), (CONVERT, *again)])


def test_perplexity_is_that_of_one_device(call, evaluated, one_device):
    arguments, one = evaluated, one_device[0]
    (four,) = call(EVALUATE, [arguments], devices=4)
    calls = {name: (*arguments, *mesh) for name, mesh in WAYS.items()}
    calls |= {"odd": (*arguments, "--mesh=fsdp=8", "--batch_size=3"), "bad": (*arguments, "--mesh=fsdp=3")}
    eight = dict(zip(calls, call(EVALUATE, calls.values()), strict=True))
    assert eight["bad"].status == 2
    assert "mesh: fsdp=3 does not multiply to the 8 devices here" in eight.pop("bad").err
    expected = json.loads(one.out)
    assert not one.err
    assert four.err == "the run's mesh was data=1 on 8 devices; taking --mesh=fsdp=4 for the 4 here\n"
    assert eight["own"].err == eight["fsdp"].err == ""
    assert eight["tensor"].err == f"{NOTE}\n"
    for name, answer in {"four": four, **eight}.items():
        found = json.loads(answer.out)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5), name
        assert found["loss_standard_error"] == pytest.approx(expected["loss_standard_error"], rel=1e-4), name
        assert (found["documents"], found["tokens"], found["bytes"]) == (7, expected["tokens"], expected["bytes"])


@pytest.mark.sweep
def test_texts_are_those_of_one_device(call, generated, one_device):
    expected = json.loads(one_device[1].out)["samples"]
    for name, answer in zip(WAYS, call(GENERATE, [(*generated, *mesh) for mesh in WAYS.values()]), strict=True):
        assert json.loads(answer.out)["samples"] == expected, (name, answer.err)


def test_weights_there_and_back_on_a_mesh(converted, one_device):
    (folder, first, second), third = converted, one_device[2]
    assert [answer.status for answer in (first, second, third)] == [0, 0, 0], (first, second, third)
    assert NOTE in first.err
    assert NOTE in second.err
    written = experiments.load(folder / "back")
    assert written.mesh == Mesh(fsdp=2, tensor=2)
    assert written.sharding.parameters.vocab == ()
    for path in (folder / "published").iterdir():
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes(), path.name


def test_training_takes_the_same_flag(command, tiny_experiment, write_config, tmp_path):
    config = write_config(tiny_experiment(mesh=Mesh(data=8)), tmp_path / "config.py")
    status, said = command("launch.train", f"--config={config}", "--mesh=fsdp=4", "--print_config")
    assert status == 0, said
    assert json.loads(said[: said.index("\n}\n") + 2])["mesh"] == to_json(Mesh(fsdp=4))
    status, said = command("launch.train", f"--config={config}", "--mesh=fsdp", "--print_config")
    assert status == 2
    assert "--mesh=fsdp: 'fsdp' is no size of an axis" in said


@pytest.mark.sweep
def test_experts_on_a_mesh_with_an_expert_axis(call, tiny_experiment, texts, tmp_path):
    """Trained there, it is evaluated, generates and is converted there, and gives the same on one device."""
    experts = "Experts(num_experts=8, top_k=2, expert=Gated(width=16))"
    changes = {"model__ffn": experts, "training__num_steps": 4, "evaluation__every": 4, "checkpoints__every": 4}
    run = tmp_path / "run"
    train(tiny_experiment(**changes, mesh=Mesh(data=1, fsdp=2, expert=4)), run, say=lambda line: None)
    meshes = {"own": (), "expert": ("--mesh=data=2,expert=4",), "tensor": ("--mesh=expert=4,tensor=2",)}

    evaluated = (f"--run={run}", f"--text={texts}", "--json")
    (one,) = call(EVALUATE, [(*evaluated, "--mesh=data=1")], devices=1)
    calls = [(*evaluated, *mesh) for mesh in meshes.values()] + [
        (*evaluated, "--mesh=expert=4,fsdp=2", "--batch_size=3")
    ]
    for answer in call(EVALUATE, calls):
        assert json.loads(answer.out)["loss"] == pytest.approx(json.loads(one.out)["loss"], rel=1e-5), answer.err

    prompts = ("--prompt=the cat", "--prompt=a", "--prompt=old grey")
    generated = (f"--run={run}", *prompts, "--temperature=0", "--max_tokens=12", "--batch_size=3", "--json")
    (one,) = call(GENERATE, [(*generated, "--mesh=data=1")], devices=1)
    for answer in call(GENERATE, [(*generated, *mesh) for mesh in meshes.values()]):
        assert json.loads(answer.out)["samples"] == json.loads(one.out)["samples"], answer.err

    folder, back, to = published(tmp_path, "mixtral"), tmp_path / "back", tmp_path / "to"
    there = call(CONVERT, [(f"--from={folder}", f"--run={back}", "--mesh=fsdp=2,expert=4")])
    again = call(CONVERT, [(f"--run={back}", f"--to={to}", "--mesh=data=2,expert=4")])
    assert [answer.status for answer in (*there, *again)] == [0, 0], (there, again)
    assert experiments.load(back).mesh == Mesh(fsdp=2, expert=4)
    assert contents(to) == contents(folder)
