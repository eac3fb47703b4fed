"""Renders the chart, for the tests beside it."""

import functools
import os
import pathlib
import shutil
import subprocess
import unittest

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "charts" / "tessera"
SETS = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "rel", "storage"
PARTS = ("mdm", "sds", "sdc", "mgmt")
CACHE = pathlib.Path(os.environ.get("TESSERA_CACHE", os.path.expanduser("~/.cache/tessera")))
# The parts of Kubernetes' API that are asked by the name of their kind.
PODS = {
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}


def tool(name):
    """Its path, or None."""
    return shutil.which(name, path=f"{CACHE}/bin:{os.environ['PATH']}")


HELM = unittest.skipUnless(tool("helm"), "helm is not installed: tools/setup_kubernetes")


def helm(*arguments):
    return subprocess.run([tool("helm"), *map(str, arguments)], capture_output=True, text=True, check=False)


def render_text(*values, kube_version="1.34.0"):
    """What a values file, or several, make of the chart. AssertionError when they make none."""
    options = [option for path in values for option in ("--values", path)]
    result = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", kube_version, *options)
    if result.returncode != 0:
        raise AssertionError(f"{values}: {result.stderr}")
    return result.stdout


@functools.lru_cache(maxsize=None)
def rendered(path):
    return render_text(path)


def objects(path):
    """All objects that a values file makes. New ones each time."""
    return [
        found for found in yaml.load_all(rendered(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if found
    ]


def name_of(found):
    return f"{found['kind']}/{found['metadata']['name']}"


def pod_template(found):
    """Of an object that has one, else None."""
    if found["kind"] not in PODS:
        return None
    for key in PODS[found["kind"]]:
        found = found[key]
    return found


def pods(path):
    """(name of the object, pod template) of all that make pods."""
    return [(name_of(found), pod_template(found)) for found in objects(path) if found["kind"] in PODS]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]
