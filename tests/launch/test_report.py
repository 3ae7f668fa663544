import json
import subprocess
import sys

from train.run.metrics import MetricsWriter


def process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.report", *arguments], capture_output=True, text=True, check=False
    )


def test_the_report_is_rebuilt(tmp_path):
    with MetricsWriter(tmp_path / "demo", tensorboard=False) as writer:
        writer.train(1, {"loss": 2.5})
    done = process(f"--run={tmp_path}/demo", f"--curve={tmp_path}/loss.png")
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path}/demo/report.html" in done.stdout
    assert "training loss" in done.stdout
    assert (tmp_path / "demo/report.html").exists()
    assert (tmp_path / "loss.png").exists()


def test_the_folder_of_a_sweep_gets_the_report_of_the_sweep(command, tmp_path):
    variants = {name: {"settings": []} for name in ("base", "other")}
    content = {"format": 1, "name": "demo", "base": "base", "variants": variants, "seeds": [0, 1]}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    for name, loss in (("base", 2.5), ("other", 2.25)):
        for seed in (0, 1):
            with MetricsWriter(tmp_path / f"{name}-seed{seed}", tensorboard=False) as writer:
                writer.evaluation(10, {"loss": loss + 0.1 * seed})
                writer.status("finished", 10, total_steps=10)
    status, printed = command("launch.report", f"--run={tmp_path}")
    assert status == 0, printed
    assert "better, p < 0.0001" in printed
    assert f"report: {tmp_path}/report.html" in printed
    assert (tmp_path / "results.csv").read_text().count("finished") == 4
    status, printed = command("launch.report", f"--run={tmp_path}", f"--curve={tmp_path}/loss.png")
    assert (status, "--curve draws one run" in printed) == (2, True)
    for lengths, words in (("48,64", "divide the longest"), ("0,64", "no number of tokens"), ("64", "cannot be read")):
        status, printed = command("launch.report", f"--run={tmp_path}", f"--lengths={lengths}")
        assert (status, words in printed) == (2, True), printed
    (tmp_path / "sweep.json").unlink()
    for flag in ("--documents", "--reach", "--lengths=64"):
        status, printed = command("launch.report", f"--run={tmp_path}", flag)
        assert (status, "holds no sweep.json" in printed) == (2, True)


def test_mistakes_are_one_line_and_exit_2(call, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "parent").mkdir()
    for arguments, message in (
        ([], "--run is missing"),
        ([f"--run={tmp_path}/parent"], "is neither a run folder nor that of a sweep"),
        ([f"--run={tmp_path}/nowhere"], "there is no run folder"),
        (["somewhere"], "unexpected argument 'somewhere'"),
        (["--rum=x"], "rum"),
        ([f"--run={tmp_path}", f"--curve={tmp_path}/no/such/folder.png"], "cannot write"),
        ([f"--run={tmp_path}", f"--curve={tmp_path}/loss.jpg"], "png"),
    ):
        (answer,) = call("launch.report", [arguments])
        assert answer.status == 2, arguments
        assert message in answer.err
        assert "Traceback" not in answer.err
    assert not list((tmp_path / "parent").iterdir())
