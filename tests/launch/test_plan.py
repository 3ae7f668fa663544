"""launch.plan: a plan on standard output, a status that says whether it fits, errors in one line."""

import pytest

MODULE = "launch.plan"


@pytest.fixture
def config(tiny_experiment, write_config, tmp_path):
    return write_config(tiny_experiment(), tmp_path / "tiny.py")


def test_plans_and_refusals(call, config):
    def given(*arguments):
        return [f"--config={config}", *arguments]

    answers = call(
        MODULE,
        [
            given("--topology=v5p:2x2x2"),
            given("--topology=h100:1x8", "--mesh=fsdp=4,tensor=2"),
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
    for answer, words in zip(
        answers[4:],
        (
            "fsdp=4,tensor=4 does not multiply to the 8 devices of v5p:2x2x2",
            "'v9' is no known chip",
            "--topology is missing: which chips? Try --topology=v5p:4x4x4",
            "--config is missing",
            "unexpected argument 'more'",
            "is no size of an axis",
        ),
        strict=True,
    ):
        assert answer.status == 2
        assert words in answer.err
        assert answer.out == ""
