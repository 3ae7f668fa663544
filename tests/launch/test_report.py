import subprocess
import sys

from train.run.metrics import MetricsWriter


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.report", *arguments], capture_output=True, text=True, check=False
    )


def test_the_report_is_rebuilt(tmp_path):
    with MetricsWriter(tmp_path / "demo", tensorboard=False) as writer:
        writer.train(1, {"loss": 2.5})
    done = command(f"--run={tmp_path}/demo", f"--curve={tmp_path}/loss.png")
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path}/demo/report.html" in done.stdout
    assert "training loss" in done.stdout
    assert (tmp_path / "demo/report.html").exists()
    assert (tmp_path / "loss.png").exists()


def test_mistakes_are_one_line_and_exit_2(tmp_path):
    for arguments, message in (
        ([], "--run is missing"),
        ([f"--run={tmp_path}/nowhere"], "there is no run folder"),
        (["somewhere"], "unexpected argument 'somewhere'"),
        (["--rum=x"], "rum"),
        ([f"--run={tmp_path}", f"--curve={tmp_path}/no/such/folder.png"], "cannot write"),
        ([f"--run={tmp_path}", f"--curve={tmp_path}/loss.jpg"], "png"),
    ):
        done = command(*arguments)
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr
