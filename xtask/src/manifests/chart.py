"""Asks Helm's own library, kubectl and the API's schemas about the chart; `cargo xtask manifests` runs it.

Reads one JSON object from the standard input and writes one to the standard output. What is done with the answers, and
where the texts come from, is not known here.
"""

import json
import subprocess
import sys
import tempfile

import discovery
import helm_python
import kubernetes_validate
import yaml

# Kinds that a cluster does not have by itself; of these only the frame is looked at.
FOREIGN = {"monitoring.coreos.com/v1"}


def render(chart, variants):
    """Each variant's templates, by the variant's name."""
    return {
        name: {
            path.rsplit("/", 1)[-1]: text
            for path, text in chart.render(values, name="segue", namespace="segue").items()
        }
        for name, values in variants.items()
    }


def refused(chart, values):
    """Whether the chart's schema refuses these values."""
    try:
        chart.validate_schema(values)
        return False
    except helm_python.HelmError:
        return True


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def name_of(document):
    metadata = document.get("metadata", {})
    return f"{document.get('kind')} {metadata.get('namespace', '')}/{metadata.get('name')}"


def problems_of(document, version):
    """What the API's schema of this version says against one object."""
    if document["apiVersion"] in FOREIGN:
        return [] if isinstance(document.get("spec"), dict) else ["it has no spec"]
    try:
        kubernetes_validate.validate(document, version, strict=True)
        return []
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]


def differences(one, other):
    """In what two texts do not mean the same objects."""
    one, other = ({name_of(d): d for d in documents(text)} for text in (one, other))
    found = [f"only one has {name}" for name in sorted(one.keys() ^ other.keys())]
    return found + [f"{name} differs" for name in sorted(one.keys() & other.keys()) if one[name] != other[name]]


def said_by_kubectl(kubectl, text):
    """What `kubectl --dry-run=client` has against the objects of a text."""
    server = discovery.serve(documents(text))
    with tempfile.TemporaryDirectory() as home:
        words = [kubectl, f"--server=http://127.0.0.1:{server.server_address[1]}", f"--cache-dir={home}"]
        words += ["create", "--dry-run=client", "--validate=false", "--output=name", "--filename=-"]
        ran = subprocess.run(words, input=text, capture_output=True, text=True, env={"HOME": home}, check=False)
    server.shutdown()
    expected, taken = len(documents(text)), len(ran.stdout.split())
    if ran.returncode != 0:
        return [ran.stderr.strip()]
    return [] if taken == expected else [f"kubectl takes {taken} of {expected} objects"]


def main():
    asked = json.load(sys.stdin)
    answer = {"version": helm_python.helm_sdk_version(), "problems": [], "objects": 0}
    problems = answer["problems"]
    with helm_python.Chart.load(asked["chart"]) as chart:
        answer["rendered"] = render(chart, asked["variants"])
        answer["crds"] = "---\n".join(crd["data"] for crd in chart.crds)
        problems += [f"values are not refused: {values}" for values in asked["wrong"] if not refused(chart, values)]
    lint = helm_python.lint(asked["chart"])
    problems += [f"lint: {error}" for error in lint["errors"]]
    problems += [f"lint: {said['path']}: {said['error']}" for said in lint["messages"] if said["severity"] > 1]
    texts = {f"chart, {name}": "\n---\n".join(v for k, v in templates.items() if k.endswith(".yaml"))
             for name, templates in answer["rendered"].items()} | asked["texts"]
    for name, text in texts.items():
        for document in documents(text):
            for version in asked["kubernetes"]:
                answer["objects"] += 1
                said = problems_of(document, version)
                problems += [f"{name}: {name_of(document)}, Kubernetes {version}: {problem}" for problem in said]
    for name, text in asked["texts"].items():
        problems += [f"{name}: {said}" for said in said_by_kubectl(asked["kubectl"], text)]
    for first, second in asked["same"]:
        left = "\n---\n".join((texts | {"crds": answer["crds"]})[name] for name in first)
        right = "\n---\n".join(texts[name] for name in second)
        problems += [f"{first} and {second}: {difference}" for difference in differences(left, right)]
    json.dump(answer, sys.stdout)


main()
