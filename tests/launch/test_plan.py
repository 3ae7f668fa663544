"""launch.plan: a plan on standard output, a status that says whether it fits, errors in one line."""

import json

import pytest

from model.families.sizes import SIZES

MODULE = "launch.plan"


@pytest.fixture
def config(tiny_experiment, write_config, tmp_path):
    return write_config(tiny_experiment(), tmp_path / "tiny.py")


@pytest.fixture
def given(config):
    """A function that adds the config to arguments."""
    return lambda *arguments: [f"--config={config}", *arguments]


def check_refusals(answers, *messages):
    for answer, words in zip(answers, messages, strict=True):
        assert answer.status == 2
        assert words in answer.err
        assert answer.out == ""


def test_plans_and_refusals(call, given):
    answers = call(
        MODULE,
        [
            given("--topology=v5p:2x2x2"),
            given("--topology=h100:1x8", "--mesh=fsdp=4,tensor=2", "--set", "model.vocab_size=258"),
            given("--topology=v5e:2x2", "--slices=2"),
            given("--topology=v5e:1x2", "--set", "model.width=1048576", "--set", "model.vocab_size=262144"),
            given("--topology=v5p:2x2x2", "--mesh=fsdp=4,tensor=4"),
            given("--topology=v9:2x2x2"),
            given(),
            ["--topology=v5p:2x2x2"],
            given("--topology=v5p:2x2x2", "more"),
            given("--topology=v5p:2x2x2", "--mesh=rows=2"),
        ],
    )
    for answer, mesh in zip(answers, ("fsdp=8", "fsdp=4,tensor=2", "data=2,fsdp=4"), strict=False):
        assert (answer.status, answer.err) == (0, "")
        assert f"8 chips, mesh {mesh} (in chips)" in answer.out
        assert "fits: " in answer.out
        assert "chip-hours" in answer.out
    assert "2 slices of v5e:2x2" in answers[2].out
    assert answers[3].status == 1
    assert "does not fit: " in answers[3].out
    check_refusals(
        answers[4:],
        "fsdp=4,tensor=4 does not multiply to the 8 devices of v5p:2x2x2",
        "'v9' is no known chip",
        "--topology is missing: which chips? Try --topology=v5p:4x4x4",
        "--config is missing",
        "unexpected argument 'more'",
        "is no size of an axis",
    )


def test_searches_and_inference(call, given):
    answers = call(
        MODULE,
        [
            given("--topology=v5e:2x2", "--search"),
            given("--topology=h100:1x2", "--search", "--batches=8,16"),
            given("--topology=v5e:1x2", "--search", "--set", "model.width=1048576", "--set", "model.vocab_size=262144"),
            given("--topology=v5e:2x2", "--serve_check", "--batch=3"),
            given("--topology=v5e:2x2", "--serve", "--rows=100000000"),
            given("--topology=v5e:2x2", "--search", "--mesh=fsdp=4"),
            given("--topology=v5e:2x2", "--search", "--batches=8,many"),
            given("--topology=v5e:2x2", "--batches=8"),
            given("--topology=v5e:2x2", "--serve", "--context=100000"),
            given("--topology=h100:1x8", "--compile"),
        ],
    )
    assert [answer.status for answer in answers] == [0, 0, 1, 0, 1, 2, 2, 2, 2, 2]
    for answer in answers[:2]:
        assert "the best, as flags for launch.plan and launch.train:\n  --mesh=" in answer.out
        assert "tokens/s/chip" in answer.out
        assert "searching, meshes" in answer.err
    assert "the smallest takes" in answers[2].out
    assert "inference on v5e:2x2: 4 chips, 3 rows" in answers[3].out
    assert "does not fit" in answers[4].out
    check_refusals(
        answers[5:],
        "--search chooses the mesh",
        "'many' is no number of sequences; expected 64,128",
        "--batches are for --search",
        "--context=100000: the model reads 1 to ",
        "jax compiles for a h100 only where there is one",
    )


def test_inference_of_named_models(call, given, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(SIZES["llama-3.1-8b"])))
    h100 = ["--topology=h100:1x2", "--serve", "--context=1024"]
    answers = call(
        MODULE,
        [
            ["--model=llama-3.1-8b", "--mesh=tensor=2", "--json", *h100],
            [f"--run={tmp_path}", *h100],
            ["--model=llama-3.1-8c", *h100],
            given("--model=llama-3.1-8b", *h100),
            ["--model=llama-3.1-8b", "--set=model.width=4", *h100],
            ["--model=llama-3.1-8b", "--search", *h100],
            ["--model=llama-3.1-8b", "--serve"],
            given("--topology=h100:1x2", "--json"),
        ],
    )
    assert [answer.status for answer in answers] == [0, 0, 2, 2, 2, 2, 2, 2]
    found = json.loads(answers[0].out)
    assert found["token_bytes"] == 131_072
    assert found["formats"]["bfloat16"]["weights"] == pytest.approx(8_030_261_248, rel=1e-3)
    assert "inference on h100:1x2: 2 chips, 1 row of 1,024 tokens" in answers[1].out
    check_refusals(
        answers[2:],
        "no published model is called 'llama-3.1-8c'",
        "give one of --config=FILE, --model=llama-3.1-8b and --run=FOLDER",
        "--set=model.width=4 changes a field of --config",
        "--search is about a training step",
        "--topology is missing",
        "--json is for --serve",
    )
