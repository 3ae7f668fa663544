"""launch.coordinates: tables, JSON, the page, its exit status and its mistakes; measurements are made up."""

import json

import pytest

from tests.train.lab.coordinates.conftest import made_up  # noqa: F401


@pytest.fixture(scope="module")
def config(tiny_experiment, write_config, tmp_path_factory):
    return write_config(tiny_experiment(model__width=64), tmp_path_factory.mktemp("config") / "tiny.py")


pytestmark = pytest.mark.usefixtures("made_up")
MUP = "--set=model.parametrization=MuP(base_width=32)"


def test_tables_and_page(command, config, tmp_path):
    page = tmp_path / "page.html"
    status, printed = command(
        "launch.coordinates", f"--config={config}", MUP, "--widths=64,128", "--depths=2,4", f"--page={page}"
    )
    assert status == 0
    for line in (
        "MuP, width 64: loss 3.000 to 2.000",
        "MuP: flat in width (steepest: block_output after, slope +0.00)",
        "Standard: NOT flat in depth (steepest: block_output after, slope +1.00)",
        f"page: {page}",
    ):
        assert line in printed
    assert "Standard: NOT flat in width" in page.read_text()


def test_json_and_the_exit_status_of_a_config_that_is_not_flat(command, config):
    status, printed = command("launch.coordinates", f"--config={config}", "--widths=64,128", "--seeds=0,1", "--json")
    found = json.loads(printed)
    assert status == 3
    assert (found["config"], found["seeds"], found["steps"]) == (str(config), [0, 1], 10)
    assert [(sweep["parametrization"], sweep["flat"]) for sweep in found["sweeps"]] == [
        ("Standard", False),
        ("CompleteP", True),
    ]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--config is missing"),
        (["--config=CONFIG"], "no sizes to compare"),
        (["--config=CONFIG", "--widths=64,wide"], "--widths=64,wide: expected whole numbers"),
        (["--config=CONFIG", "--widths=64,128", "--rate=-1"], "rate"),
        (["--config=CONFIG", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_mistakes(flags, expected, command, config):
    status, printed = command("launch.coordinates", *(flag.replace("CONFIG", str(config)) for flag in flags))
    assert status not in (0, 1, 3)
    assert expected in printed
    assert "Traceback" not in printed
