"""A profile of some steps: its files, its table, and ranges that cannot be profiled."""

import json
import types

import pytest

from model.errors import UserError
from tests.tiers import SWEEP
from train.hooks.profile import ProfiledSteps, parse_steps, profile_steps, top_operations
from train.loop import train
from train.report import write_report


@pytest.mark.parametrize(("text", "expected"), [("10:13", (10, 13)), ("7", (7, 7)), (" 3 : 3 ", (3, 3))])
def test_a_flag_names_steps(text, expected):
    assert parse_steps(text) == ProfiledSteps(*expected)


@pytest.mark.parametrize("text", ["", "13:10", "0:3", "a:b", "1:", "-1:2", "1:2:3"])
def test_a_flag_that_names_no_steps_is_refused(text):
    with pytest.raises(UserError, match=r"expected the first and the last step to profile, such as 10:13"):
        parse_steps(text)


def test_a_profile_of_a_run(tiny_experiment, tmp_path):
    said = []
    train(tiny_experiment(), tmp_path, hard_stop=5, say=said.append, hooks=[profile_steps(ProfiledSteps(3, 4))])
    content = json.loads((tmp_path / "profile" / "operations.json").read_text())
    assert (content["first"], content["last"]) == (3, 4)
    assert sum(row["share"] for row in content["operations"]) <= 1 + 1e-9
    names = [row["name"] for row in content["operations"]]
    assert any("fusion" in name for name in names)
    assert all(name == name.lower() and " " not in name for name in names)  # no events of the runtime
    assert not {"while", "call"} & {*names}
    assert list((tmp_path / "profile").glob("**/*.xplane.pb"))
    assert (tmp_path / "profile" / "memory.prof").stat().st_size
    assert any(line.startswith("profile of steps 3 to 4: ") for line in said)
    page = write_report(tmp_path).read_text()
    assert "Operations with most time, steps 3 to 4" in page
    assert content["operations"][0]["name"] in page


def test_a_session_that_ends_within_the_range_keeps_its_trace(tiny_experiment, tmp_path):
    train(tiny_experiment(), tmp_path, hard_stop=4, say=lambda line: None, hooks=[profile_steps(ProfiledSteps(3, 9))])
    assert list((tmp_path / "profile").glob("**/*.xplane.pb"))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((1, 2), r"begins with step 1, which compiles; profile steps after it, such as --profile_steps=2:3"),
        ((19, 21), r"the run has 20 steps; name steps up to that"),
    ],
)
def test_steps_that_cannot_be_profiled_are_refused(steps, words, tiny_experiment, tmp_path):
    with pytest.raises(UserError, match=words):
        train(tiny_experiment(), tmp_path, say=lambda line: None, hooks=[profile_steps(ProfiledSteps(*steps))])


@SWEEP
def test_a_run_that_continues_past_the_range_goes_on_without_a_profile(tiny_experiment, tmp_path):
    maker, said = profile_steps(ProfiledSteps(2, 3)), []
    train(tiny_experiment(), tmp_path, hard_stop=2, say=said.append, hooks=[maker])
    outcome = train(tiny_experiment(), tmp_path, hard_stop=4, say=said.append, hooks=[maker])
    assert outcome.step == 4
    assert "not profiled: steps 2 to 3 begin before step 4" in said


def fake_trace(planes):
    def event(name, duration):
        return types.SimpleNamespace(name=name, duration_ns=duration)

    return types.SimpleNamespace(
        planes=[
            types.SimpleNamespace(
                name=plane,
                lines=[
                    types.SimpleNamespace(name=line, events=[event(*e) for e in events])
                    for line, events in lines.items()
                ],
            )
            for plane, lines in planes.items()
        ]
    )


@pytest.mark.parametrize(
    "lines", [{"XLA Ops": None, "Steps": [("0", 99)]}, {"Stream #14": None, "XLA Modules": [("jit_step", 99)]}]
)
def test_the_operations_of_a_device_are_counted_and_not_the_lines_above_them(lines, monkeypatch):
    events = [
        ("%fusion.12 = f32[8]{0} fusion(f32[8]{0} %p)", 2e9),
        ("while.1", 9e9),
        ("fusion", 1e9),
        ("all-gather.3", 1e9),
    ]
    planes = {"/host:CPU": {"tf_XLAEigen": [("dot", 5e9)]}, "/device:X:0": {n: e or events for n, e in lines.items()}}
    monkeypatch.setattr("jax.profiler.ProfileData.from_file", lambda path: fake_trace(planes))
    found = [(row["name"], row["seconds"], row["share"], row["count"]) for row in top_operations("trace")]
    assert found == [("fusion", 3.0, 0.75, 2), ("all-gather", 1.0, 0.25, 1)]
