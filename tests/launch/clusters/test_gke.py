"""The JobSet: valid by the published schema, names within their limits, and what kubectl says."""

import copy
import json
import pathlib

import jsonschema
import pytest
import yaml

from launch.clusters import job as jobs
from launch.clusters.gke import Gke
from launch.clusters.job import Job
from model.errors import UserError
from tests.launch.clusters.fakes import Fakes

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures"
SCHEMA = json.loads((FIXTURES / "jobset_schema.json").read_text())
GOLDEN = sorted((FIXTURES / "submit").glob("gke*.yaml"))
JOB = Job(config="configs/quickstart.py", run="/runs/a", settings=("""samples.prompts=("$(HOME) $$",)""",))
GKE = Gke(topology="v5p:4x4x4", image="image", claim=("runs:/runs",))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_manifests_fit_the_published_schema(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), SCHEMA)


def change(manifest, path, value):
    *folders, last = path
    for name in folders:
        manifest = manifest[name]
    manifest[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "failurePolicy", "rules", 0, "action"), "Fail"),
        (("spec", "replicatedJobs", 0, "replicas"), "2"),
        (("spec", "replicatedJobs", 0, "template", "spec", "backofLimit"), 0),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "image_name"), "x"),
        (("metadata", "name"), "Run_1"),
        (("kind",), "Job"),
    ],
)
def test_the_schema_refuses(path, value):
    manifest = copy.deepcopy(GKE.manifest(JOB))
    jsonschema.validate(manifest, SCHEMA)
    change(manifest, path, value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def expanded(word, values):
    """A word of a command as Kubernetes expands it: $$ is a dollar, $(NAME) the value of a known variable."""
    found, rest = "", word
    while "$" in rest:
        before, _, rest = rest.partition("$")
        found += before
        if rest.startswith("$"):
            found, rest = found + "$", rest[1:]
        elif rest.startswith("(") and rest[1:].partition(")")[0] in values:
            name, _, rest = rest[1:].partition(")")
            found += values[name]
        else:
            found += "$"
    return found + rest


@pytest.mark.parametrize("topology", ["v5p:4x4x4", "h100:2x8", "h100:1x8"])
def test_every_pod_gets_the_command_as_it_was_given(topology):
    cluster = Gke(topology=topology, image="image", claim=("runs:/runs",))
    (pods,) = cluster.manifest(JOB)["spec"]["replicatedJobs"]
    (container,) = pods["template"]["spec"]["template"]["spec"]["containers"]
    received = [expanded(word, {"HOME": "/root", "PROCESS_ID": "1"}) for word in container["command"]]
    meeting = ["--coordinator=a-workers-0-0.a:8476", f"--num_processes={topology[5]}", "--process_id=1"]
    assert received == [*JOB.command(), *(meeting if topology[0] == "h" else [])]


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("/runs/Llama_7B.v2", "llama-7b-v2"),
        ("/runs/7b/", "run-7b"),
        (f"/runs/{'x' * 90}", "x" * 40),
        ("/runs/Ö", "run"),
    ],
)
def test_the_name_of_a_run(run, name):
    job = Job(config="c.py", run=run)
    assert job.name == name
    assert jsonschema.validate(GKE.manifest(job), SCHEMA) is None


def test_kubectl(monkeypatch, tmp_path, capsys):
    answers = [("create", 0, "jobset.jobset.x-k8s.io/a created\n", ""), ("create", 1, "", "... (AlreadyExists): ...\n")]
    answers += [("create", 1, "", "no such resource\n")]
    fakes = Fakes(tmp_path, ["kubectl"], {"kubectl": answers}, readers=("kubectl",))
    monkeypatch.setenv("PATH", fakes.path)
    assert GKE.submit(JOB) == 0
    assert fakes.calls("kubectl") == [["kubectl", "create", "--filename=-", GKE.text(JOB)]]
    assert "created; its log: kubectl logs --follow jobs/a-workers-0" in capsys.readouterr().out
    with pytest.raises(UserError, match="the job a is there already, for a run with the folder name of /runs/a"):
        GKE.submit(JOB)
    with pytest.raises(UserError, match="kubectl: no such resource; --dry_run prints the manifest"):
        GKE.submit(JOB)
    monkeypatch.setattr(jobs.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="kubectl is not installed here; install it: gcloud components install kubectl"):
        GKE.submit(JOB)
