"""The process that compiles: the files that it writes, on eight CPU devices in place of TPUs."""

import json

import jax
import pytest

from model.errors import UserError
from model.options.json import to_json
from train.parallel.planner import compiled, worker


@pytest.fixture
def folder(tmp_path, tiny_experiment, monkeypatch):
    """A job of eight chips whose devices are those here."""
    experiment = tiny_experiment(mesh="Mesh(fsdp=8)", data__batch_size=8)
    job = {"experiment": to_json(experiment), "topology": "v5p:2x2x2", "slices": 1}
    (tmp_path / worker.JOB).write_text(json.dumps(job))
    monkeypatch.setattr(worker, "devices", lambda cluster: jax.devices())
    return tmp_path


def test_a_step_is_compiled_and_described(folder):
    worker.main(folder)
    found = json.loads((folder / worker.RESULT).read_text())
    assert found["peak"] > found["arguments"] > 0
    assert json.loads((folder / worker.TRACED).read_text())["mesh"]["fsdp"] == 8
    assert list(folder.glob(f"*{worker.MODULE}*")), "XLA dumps nothing about the step"
    step = compiled._wait(folder, _Ended(), whole=True)
    assert {one.axes for one in step.collectives} >= {("fsdp",)}


class _Ended:
    returncode = 0

    def poll(self):
        return 0


def test_errors_of_the_user_and_programs_without_room_are_written(folder, monkeypatch):
    def refuse(cluster):
        raise UserError(f"libtpu does not compile for {cluster}")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "devices", refuse)
        worker.main(folder)
    assert (folder / worker.ERROR).read_text() == "libtpu does not compile for v5p:2x2x2"

    class Lowered:
        def lower(self, *arguments):
            return self

        def compile(self, **options):
            raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM, 1.53T exceeds 95.74G.\nmore")

    with monkeypatch.context() as patch:
        patch.setattr("train.step.compile_train_step", lambda *arguments: Lowered())
        worker.main(folder)
    assert (folder / worker.TOO_LARGE).read_text() == "Ran out of memory on HBM, 1.53T exceeds 95.74G."
    assert not (folder / worker.RESULT).exists()
