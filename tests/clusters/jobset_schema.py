"""The part of the published schema of a JobSet that the manifests of launch.submit use.

    python -m tests.clusters.jobset_schema jobset.x-k8s.io_jobsets.yaml > tests/fixtures/jobset_schema.json

The argument is config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of github.com/kubernetes-sigs/jobset (Apache
2.0). Properties that no manifest of tests/fixtures/submit has are left out, and so are descriptions; of a property that
is kept everything else is. No other properties are allowed, as by `kubectl create --validate=strict`.
"""

import json
import pathlib
import sys

import yaml

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
SOURCE = "github.com/kubernetes-sigs/jobset, config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml, "
REVISION = "revision 08dfbdfd682714a9ab929633eca8dc95315187e7"
# A definition leaves the metadata of an object open; these are its fields in the API of Kubernetes.
METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def part_of(schema, values):
    """The part of a schema that says something of these values."""
    kept = {key: value for key, value in schema.items() if key not in ("description", "properties", "items", "format")}
    if "x-kubernetes-int-or-string" in kept:  # the type is in the extension
        kept = {"type": ["integer", "string"]}
    if "properties" in schema:
        used = sorted({name for value in values for name in value})
        kept["properties"] = {
            name: part_of(schema["properties"][name], [value[name] for value in values if name in value])
            for name in used
            if name in schema["properties"]
        }
        kept["additionalProperties"] = False
    if "items" in schema:
        kept["items"] = part_of(schema["items"], [item for value in values for item in value])
    if isinstance(kept.get("additionalProperties"), dict):
        inside = [x for value in values for x in value.values()]
        kept["additionalProperties"] = part_of(kept["additionalProperties"], inside)
    return {key: value for key, value in kept.items() if not key.startswith("x-kubernetes-")}


def main():
    definition = yaml.safe_load(pathlib.Path(sys.argv[1]).read_text())
    version = next(one for one in definition["spec"]["versions"] if one["name"] == "v1alpha2")
    schema = version["schema"]["openAPIV3Schema"]
    manifests = [yaml.safe_load(path.read_text()) for path in sorted((FIXTURES / "submit").glob("gke*.yaml"))]
    made = part_of(schema, manifests)
    made["properties"] |= {"metadata": METADATA}
    made["properties"]["apiVersion"] |= {"const": f"{definition['spec']['group']}/v1alpha2"}
    made["properties"]["kind"] |= {"const": definition["spec"]["names"]["kind"]}
    print(json.dumps({"$comment": SOURCE + REVISION, **made}, indent=1))


if __name__ == "__main__":
    main()
